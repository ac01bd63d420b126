// Steps for benchmarks: sequences that all do the same, and the time that one such step takes.
#pragma once

#include <cstdint>

#include "engine/model_runner.h"

namespace chorale::bench {

// Sequence s owns the KV blocks from s * blocks_each on, and has first_position tokens in them already, which
// nobody need have computed.
struct BenchStep {
  int64_t sequences = 1;
  int64_t tokens_each = 1;
  int64_t first_position = 0;
  int64_t blocks_each = 1;
};

// Token ids depend on sequence and position alone. The logits of each sequence's last token are wanted.
engine::StepPlan make_plan(const BenchStep& step, const engine::ModelRunner& runner);

// Seconds of the step, which every data-parallel group takes at once, with the choice of the most likely
// tokens.
double time_step(engine::ModelRunner& runner, const BenchStep& step);

}  // namespace chorale::bench
