// What runners of ranks have in common, whether ranks are threads of one process or processes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/tensor.h"
#include "engine/model_runner.h"
#include "engine/runner_parts.h"

namespace chorale::engine {

class ParallelRunner : public ModelRunner {
 public:
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t block_tokens() const override { return block_tokens_; }
  int64_t num_dp_groups() const override { return dp_size_; }
  int64_t num_spare_blocks() const override { return num_spare_blocks_; }

 protected:
  explicit ParallelRunner(const RunnerParts& parts);

  // Throws Error when a failure of this rank was asked for at this step, the first of which is 1.
  void inject_fault(int rank, int64_t step, RankRunner& runner) const;
  // In one group.
  static int64_t most_tokens(std::span<const StepPlan* const> plans);
  // A matrix of logits without gaps between its rows.
  static std::span<const float> as_span(const Tensor& logits);

  const int64_t vocab_size_;
  const int64_t block_tokens_;
  const int dp_size_;
  const int tp_size_;

 private:
  const int64_t num_spare_blocks_;
  const std::optional<InjectedFault> fault_;
};

}  // namespace chorale::engine
