// A step of all data-parallel groups, and what comes of it, as numbers, to be sent to other processes of the
// same program.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_runner.h"

namespace chorale::engine {

// Replaces what is in `message`.
void write_step(std::span<const StepPlan* const> plans, std::vector<int32_t>& message);

// Fills one plan per group. A message that is not one of write_step is a programmer's fault.
void read_step(std::span<const int32_t> message, std::span<StepPlan> plans);

// The same for what is wanted of a step's logits. What was read has its masks in `message`.
void write_sampling(std::span<const SamplePlan* const> plans, std::vector<int32_t>& message);
void read_sampling(std::span<const int32_t> message, std::span<SamplePlan> plans);

// What came of a group's rows, as a matrix of numbers [rows, sampled_columns(most)]; most: the alternatives
// that any row asks for, in any group, or -1.
int64_t sampled_columns(int64_t most);
void write_sampled(const SampledStep& step, int64_t most, std::vector<int32_t>& rows);

// Owns what came of a group's rows.
struct SampledValues {
  std::vector<int32_t> tokens, statuses, top_tokens;
  std::vector<float> logprobs;
  int64_t most = 0;
  SampledStep view() const;
};
void read_sampled(std::span<const int32_t> rows, int64_t most, SampledValues& values);

}  // namespace chorale::engine
