#include "engine/step_logits.h"

#include "base/error.h"

namespace chorale::engine {

std::span<const float> StepLogits::rows(size_t dp_group, const ScheduledSequence& scheduled) const {
  return groups[dp_group].subspan(static_cast<size_t>(scheduled.first_row * vocab_size),
                                  static_cast<size_t>(scheduled.num_rows * vocab_size));
}

void run_step(ModelRunner& runner, const PlannedStep& step, StepLogits& logits) {
  logits.vocab_size = runner.vocab_size();
  logits.groups.resize(step.plans.size());
  runner.run_dp_groups(step.plans, logits.groups);
  for (size_t g = 0; g < step.plans.size(); ++g) {
    const size_t expected = step.plans[g]->logits_tokens.size() * static_cast<size_t>(logits.vocab_size);
    if (logits.groups[g].size() != expected) {
      throw_error("{} logits were expected, {} came", expected, logits.groups[g].size());
    }
  }
}

}  // namespace chorale::engine
