#include "engine/model_runner.h"

namespace chorale::engine {

std::span<const float> ModelRunner::run(const StepPlan& plan) {
  const StepPlan nothing;
  std::vector<const StepPlan*> plans(static_cast<size_t>(num_dp_groups()), &nothing);
  plans[0] = &plan;
  forward(plans);
  return logits();
}

void ModelRunner::sample(std::span<const SamplePlan* const> plans, std::span<SampledStep> sampled) {
  start_sampling(plans);
  collect(sampled);
}

}  // namespace chorale::engine
