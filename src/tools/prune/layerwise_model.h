// Runs a model one layer at a time over many sequences, so that of a checkpoint of any size one layer is in
// memory, and what calibration needs of a layer can be seen and changed on the way.
//
// The tokens are cut into windows without overlap, each a sequence of its own. Between two layers their rows
// of the residual stream, float32 [T, H], lie in a tensor of the caller's. The layers are those of
// model/layers.h, so the results are the bits of the served model for the same dtype and instruction set.
// Used by one thread at a time; ops run on the stream's threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/stream.h"
#include "base/tensor.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "kernels/expert_matmul.h"
#include "model/kv_cache.h"
#include "model/rank_plan.h"
#include "model/step_inputs.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "tools/eval.h"

namespace chorale::tools {

// A part of the model in memory. Movable.
struct LoadedPart {
  Buffer memory;
  model::ModelWeights weights;  // the part's fields alone
  const model::LayerWeights& layer() const { return weights.layers.front(); }
};

// What a layer of experts did with the tokens of one step; valid during the call.
struct ExpertStep {
  int64_t num_tokens = 0;
  ExpertRows rows;  // all_tokens() for a single expert without a router
  Tensor inner;     // act [R, I]: silu(gate) * up of each row
};
using ExpertObserver = std::function<void(const ExpertStep&)>;

class LayerwiseModel {
 public:
  // The checkpoint must have passed model::check_tensors, and outlive this. window >= 1.
  LayerwiseModel(const io::Checkpoint& checkpoint, const io::ModelConfig& config, DType dtype,
                 const Stream& stream, int64_t window);

  const io::ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  int64_t window() const { return window_; }
  const Stream& stream() const { return stream_; }
  const io::Checkpoint& checkpoint() const { return checkpoint_; }

  LoadedPart load(model::ModelPart part) const;

  // The whole model but for the head: residual = the last layer's output for these tokens. `observe`, where
  // set, is called with each layer before its feed-forward, and gives the observer of that (or none);
  // `on_layer`, where set, is called after each layer. What they throw ends the work.
  using Observe = std::function<ExpertObserver(int64_t layer, const model::LayerWeights& weights)>;
  void forward(std::span<const int32_t> token_ids, const Tensor& residual,
               const std::function<void(int64_t layer)>& on_layer = nullptr,
               const Observe& observe = nullptr);

  // residual[t] = the embedding of token_ids[t], all of which are in the vocabulary.
  void embed(std::span<const int32_t> token_ids, const Tensor& residual);
  // residual += attention(norm(residual)).
  void attend(const model::LayerWeights& layer, const Tensor& residual);
  // residual += experts(norm(residual)), or the dense layer. The layer may be of another model that has the
  // same hidden size: `config` describes it.
  void feed_forward(const io::ModelConfig& config, const model::LayerWeights& layer, const Tensor& residual,
                    const ExpertObserver& observer = nullptr);
  // out[t] = the norm of the row before the feed-forward, float32 [T, H].
  void normed(const model::LayerWeights& layer, const Tensor& residual, const Tensor& out) const;

  // What the last layer's output says of the tokens that follow, as tools::evaluate does for whole models.
  EvalResult score(const LoadedPart& head, std::span<const int32_t> token_ids, const Tensor& residual) const;

 private:
  struct Step {
    int64_t first = 0, count = 0;  // tokens
    model::StepInputs inputs;
  };
  // Calls run(step) for all tokens, some windows at a time.
  template <typename Run>
  void for_each_step(int64_t num_tokens, const Run& run);

  const io::Checkpoint& checkpoint_;
  io::ModelConfig config_;
  DType dtype_;
  Stream stream_;
  int64_t window_;
  int64_t windows_per_step_;
  model::StepLimits limits_;
  model::RankExtent extent_;
  model::StepBuffers inputs_;
  model::KvCache cache_;
  model::Workspace scratch_;
  Arena tables_;
  Tensor rope_frequencies_;  // float32 [1, D / 2]
  float rope_scale_ = 1;
  std::vector<int32_t> token_ids_, block_tables_;
  std::vector<model::HostSegment> segments_;
};

// Cuts `token_ids` into windows as tools::evaluate does, and scores them; the result is the same to the bit.
// `on_layer` is called after each layer, where set.
EvalResult evaluate_layerwise(LayerwiseModel& model, std::span<const int32_t> token_ids, int64_t max_windows,
                              const std::function<void()>& on_layer = nullptr);

}  // namespace chorale::tools
