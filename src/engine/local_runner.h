// Runs steps on this process's own memory and threads.
#pragma once

#include <span>
#include <vector>

#include "base/stream.h"
#include "engine/model_runner.h"
#include "io/model_config.h"
#include "model/kv_cache.h"
#include "model/qwen3_moe.h"
#include "model/step_inputs.h"
#include "model/weights.h"

namespace chorale::engine {

class LocalRunner : public ModelRunner {
 public:
  struct Parts {
    const io::ModelConfig& config;
    model::ModelWeights weights;  // their memory must outlive the runner
    model::StepLimits limits;
    int64_t num_blocks = 0;
    Stream stream;
  };
  explicit LocalRunner(Parts parts);

  int64_t vocab_size() const override { return vocab_size_; }
  std::span<const float> run(const StepPlan& plan) override { return run_observed(plan, nullptr); }
  std::span<const float> run_observed(const StepPlan& plan, model::StepObserver* observer);

 private:
  int64_t vocab_size_;
  Stream stream_;
  model::StepBuffers inputs_;
  model::KvCache cache_;
  model::Qwen3MoeModel model_;
  std::vector<model::HostChunk> chunks_;  // with room for every step
};

}  // namespace chorale::engine
