// What is wanted of a step's rows of logits, and what came of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"
#include "kernels/sample.h"

namespace chorale::engine {

// A text whose tokens are to be counted anew in a slot: the next of SamplePlan::text_tokens, the prompt
// first.
struct CountedText {
  int64_t slot = 0;
  int64_t num_prompt = 0;
  int64_t num_output = 0;
};

// One data-parallel group's.
struct SamplePlan {
  std::vector<SampleParams> params;  // [rows], of the rows of StepPlan::logits_tokens; no two have one slot
  // What is added to logits: row r's are [bias_offsets[r], bias_offsets[r + 1]).
  std::vector<int32_t> bias_offsets{0};  // [rows + 1]
  std::vector<int32_t> bias_tokens;
  std::vector<float> biases;
  // Bits of the rows that are masked, in their order; must stay as they are until the rows were sampled.
  std::vector<std::span<const uint32_t>> masks;
  // Counted before the rows are sampled.
  std::vector<CountedText> texts;
  std::vector<int32_t> text_tokens;

  void clear();
  int64_t num_rows() const { return static_cast<int64_t>(params.size()); }
  int64_t most_alternatives() const;  // that a row asks for
};

// What came of a group's rows, as kernels/sample.h has it; valid until the runner's next step.
struct SampledStep {
  std::span<const int32_t> tokens;      // [rows]
  std::span<const int32_t> statuses;    // [rows] of SampleStatus
  std::span<const float> logprobs;      // [rows, 1 + most]; empty when no row asks for any
  std::span<const int32_t> top_tokens;  // [rows, most]
  int64_t most = 0;                     // alternatives that a row asks for

  SampleStatus status(int64_t row) const {
    return static_cast<SampleStatus>(statuses[static_cast<size_t>(row)]);
  }
  // Of a row that asks for them and whose status is ok.
  TokenLogprobs logprobs_of(int64_t row) const;
};

}  // namespace chorale::engine
