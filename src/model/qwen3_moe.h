// Qwen3-MoE (arXiv 2505.09388; transformers' Qwen3MoeForCausalLM): the forward pass of one rank.
#pragma once

#include <variant>
#include <vector>

#include "base/stream.h"
#include "io/model_config.h"
#include "model/kv_cache.h"
#include "model/layers.h"
#include "model/rank_plan.h"
#include "model/step_inputs.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace chorale::model {

// Sees intermediate results of a step, to compare them with a reference. The tensors are valid during the
// call.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  // The residual stream of the home tokens [U, H]: before the first layer (0), and after layer l (l + 1).
  virtual void hidden(int64_t index, const Tensor& residual) = 0;
  // The router's logits [U, E] of a sparse layer.
  virtual void router_logits(int64_t layer, const Tensor& logits) = 0;
};

// What a rank is made from.
struct RankModel {
  const io::ModelConfig& config;
  ModelWeights weights;  // this rank's part; their memory must outlive the model
  StepLimits limits;
  RankExtent extent;
  RankGroups groups;
  // Which slots this rank sends tokens to, by layer [layers]; empty when no token travels.
  std::vector<ExpertSlots> expert_slots;
};

class Qwen3MoeModel {
 public:
  // On the stream's device, where the weights are. Uploads small tables, and waits for them.
  Qwen3MoeModel(const Stream& stream, RankModel parts);

  // One step. Writes the keys and values of its tokens to the cache; returns the logits [L, V] of the rows
  // asked for, valid until the next step, on the first rank of the tensor-parallel group and nothing on the
  // others. Does not allocate. All ranks take part in every step, with no tokens where there is no work.
  Tensor forward(const Stream& stream, const StepInputs& in, const KvCache& cache,
                 StepObserver* observer = nullptr);

  // Between steps, where tokens travel: from the next step on these are the experts of a sparse layer, in as
  // many slots as before, and tokens travel to them so. Waits for the device.
  void place_experts(const Stream& stream, int64_t layer, const FeedForwardWeights& experts,
                     const ExpertSlots& slots);
  // Of ExpertSlots, in a layer; 0 when no token travels.
  int64_t num_slot_variants(int64_t layer) const;

  // How many of this rank's home tokens were routed to each logical expert since the start: int64 [layers,
  // E].
  Tensor expert_load() const { return expert_load_; }

 private:
  struct Layer {
    RmsNorm input_norm;
    Attention attention;
    RmsNorm post_attention_norm;
    std::variant<DenseMlp, SparseMoe> feed_forward;
  };

  Update feed_forward(const Stream& stream, Layer& layer, const Tensor& x, const StepInputs& in);
  void observe_layer(StepObserver& observer, size_t layer, const Tensor& x) const;

  ModelWeights weights_;
  Arena tables_;
  Tensor rope_frequencies_;  // float32 [1, D / 2]
  float rope_scale_;
  Tensor expert_load_;
  std::vector<DispatchTable> dispatch_tables_;
  VocabParallelEmbedding embed_tokens_;
  std::vector<Layer> layers_;
  RmsNorm norm_;
  LmHead lm_head_;
  Workspace scratch_;
};

}  // namespace chorale::model
