#include "engine/parallel_runner.h"

#include <vector>

#include "base/error.h"

namespace chorale::engine {

ParallelRunner::ParallelRunner(const RunnerParts& parts)
    : vocab_size_(parts.config.vocab_size),
      block_tokens_(backend_of(parts.device).kv_block_tokens),
      dp_size_(parts.plan.strategy.dp_size),
      tp_size_(parts.plan.strategy.tp_size),
      fault_(parts.fault) {}

std::span<const float> ParallelRunner::run(const StepPlan& plan) {
  std::vector<const StepPlan*> plans(static_cast<size_t>(dp_size_), &nothing_);
  std::vector<std::span<const float>> logits(plans.size());
  plans[0] = &plan;
  run_dp_groups(plans, logits);
  return logits[0];
}

void ParallelRunner::inject_fault(int rank, int64_t step) const {
  if (fault_ && fault_->rank == rank && fault_->step == step) {
    throw_error("a failure was asked for at step {}", step);
  }
}

std::span<const float> ParallelRunner::as_span(const Tensor& logits) {
  if (logits.empty()) return {};
  return {logits.data<float>(), static_cast<size_t>(logits.size())};
}

}  // namespace chorale::engine
