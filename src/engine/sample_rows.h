// Rows of a SamplePlan, from what requests ask for.
#pragma once

#include <cstdint>
#include <span>

#include "engine/request.h"
#include "engine/sample_plan.h"

namespace chorale::engine {

// A row that gives a request its next token.
struct ChoiceRow {
  const SamplingParams& params;
  uint64_t seed = 0;  // in place of params.seed, which may be absent
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;
  std::span<const int32_t> eos_token_ids;
  std::span<const uint32_t> allowed;  // bits, see TokenConstraint::next_mask; empty: all tokens
  int32_t num_top_logprobs = -1;      // as GenerationRequest has it
  int32_t count_slot = -1;            // where the request's tokens are counted; -1 unless has_penalties()
};
void add_choice(const ChoiceRow& row, int64_t vocab_size, SamplePlan& plan);

// A row that tells the log probability of a token that is known.
void add_score(int32_t token, int32_t num_top_logprobs, SamplePlan& plan);

// Has a text counted anew before the plan's rows are sampled.
void add_text(int32_t slot, std::span<const int32_t> prompt, std::span<const int32_t> output,
              SamplePlan& plan);

}  // namespace chorale::engine
