// Qwen3-MoE (arXiv 2505.09388; transformers' Qwen3MoeForCausalLM): the forward pass of one rank.
#pragma once

#include <vector>

#include "base/stream.h"
#include "comm/communicator.h"
#include "io/model_config.h"
#include "model/kv_cache.h"
#include "model/layers.h"
#include "model/step_inputs.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace chorale::model {

// Sees intermediate results of a step, to compare them with a reference. The tensors are valid during the
// call.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  // The residual stream [T, H]: before the first layer (0), and after layer l (l + 1).
  virtual void hidden(int64_t index, const Tensor& residual) = 0;
  // The router's logits [T, E] of a sparse layer.
  virtual void router_logits(int64_t layer, const Tensor& logits) = 0;
};

class Qwen3MoeModel {
 public:
  // The weights' memory must outlive the model.
  Qwen3MoeModel(const io::ModelConfig& config, ModelWeights weights, const StepLimits& limits);

  // One step. Writes the keys and values of its tokens to the cache; returns the logits [R, V] of the rows
  // asked for, valid until the next step. Does not allocate.
  Tensor forward(const Stream& stream, const StepInputs& in, const KvCache& cache,
                 StepObserver* observer = nullptr);

 private:
  struct Layer {
    RmsNorm input_norm;
    Attention attention;
    RmsNorm post_attention_norm;
    FeedForward feed_forward;
  };

  ModelWeights weights_;
  std::vector<Layer> layers_;
  RmsNorm norm_;
  Buffer frequency_memory_;
  Tensor rope_frequencies_;  // float32 [1, D / 2]
  float rope_scale_;
  Workspace scratch_;
};

}  // namespace chorale::model
