#include "engine/model_runner.h"

namespace chorale::engine {

std::span<const float> ModelRunner::run(const StepPlan& plan) {
  const StepPlan nothing;
  std::vector<const StepPlan*> plans(static_cast<size_t>(num_dp_groups()), &nothing);
  plans[0] = &plan;
  forward(plans);
  return logits();
}

}  // namespace chorale::engine
