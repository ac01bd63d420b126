// Running a planned step, and the logits that come of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_runner.h"
#include "engine/scheduler.h"
#include "engine/step_planner.h"

namespace chorale::engine {

struct StepLogits {
  int64_t vocab_size = 0;
  // [dp_size] of [logits rows of the group's plan, vocab_size]; valid until the runner's next step.
  std::vector<std::span<const float>> groups;

  // [scheduled.num_rows, vocab_size]
  std::span<const float> rows(size_t dp_group, const ScheduledSequence& scheduled) const;
};

// Throws what the runner throws, and Error when it gives more or fewer logits than were planned.
void run_step(ModelRunner& runner, const PlannedStep& step, StepLogits& logits);

}  // namespace chorale::engine
