#include "engine/parallel_runner.h"

#include <algorithm>

#include "base/error.h"

namespace chorale::engine {

ParallelRunner::ParallelRunner(const RunnerParts& parts)
    : vocab_size_(parts.config.vocab_size),
      block_tokens_(backend_of(parts.device_kind()).kv_block_tokens),
      dp_size_(parts.plan.strategy.dp_size),
      tp_size_(parts.plan.strategy.tp_size),
      num_spare_blocks_(parts.num_spare_blocks),
      fault_(parts.fault) {}

void ParallelRunner::inject_fault(int rank, int64_t step, RankRunner& runner) const {
  if (fault_ && fault_->rank == rank && fault_->step == step) runner.inject(fault_->kind);
}

int64_t ParallelRunner::most_tokens(std::span<const StepPlan* const> plans) {
  int64_t most = 0;
  for (const StepPlan* plan : plans) most = std::max(most, plan->num_tokens());
  return most;
}

std::span<const float> ParallelRunner::as_span(const Tensor& logits) {
  if (logits.empty()) return {};
  return {logits.data<float>(), static_cast<size_t>(logits.size())};
}

}  // namespace chorale::engine
