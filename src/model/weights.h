// The weights of a model in the form that the layers use, and the plan from which they are loaded.
//
// All weights that a process holds live in one buffer. A plan is made from the configuration and a shard
// alone: which tensors of a checkpoint are needed, their shapes, which part of each, and where in the buffer
// it goes, as its device keeps weights (kernels/backend.h), and cut as the sharding plan says. Ranks that are
// threads of one process share the buffer that holds the whole model, and each takes its views of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "io/model_config.h"
#include "kernels/backend.h"
#include "kernels/expert_matmul.h"
#include "kernels/weight_matrix.h"
#include "model/weight_shard.h"
#include "parallel/topology.h"

namespace chorale::model {

struct AttentionWeights {
  WeightMatrix q_proj;                    // [Q * D, H]
  WeightMatrix k_proj;                    // [KV * D, H]
  WeightMatrix v_proj;                    // [KV * D, H]
  WeightMatrix o_proj;                    // [H, Q * D]
  Tensor q_bias, k_bias, v_bias, o_bias;  // float32 [1, N]; empty without attention_bias
  Tensor q_norm, k_norm;                  // float32 [1, D]
};

// A dense layer is a layer of one expert without a router.
struct FeedForwardWeights {
  WeightMatrix router;                          // [E, H]; without data for a dense layer
  WeightLayout gate_up_layout;                  // fused pair [I, H]
  WeightLayout down_layout;                     // [H, I]
  std::vector<const std::byte*> gate_up, down;  // [E]
  bool is_sparse() const { return router.layout.n > 0; }
};

struct LayerWeights {
  Tensor input_norm;           // float32 [1, H]
  Tensor post_attention_norm;  // float32 [1, H]
  AttentionWeights attention;
  FeedForwardWeights feed_forward;
};

// How the weights of a model are kept. The router, norms and the embedding are never quantized.
struct WeightFormats {
  // A dtype alone: no matrix is quantized.
  WeightFormats(DType type = DType::bf16) : dtype(type), linear(plain_format(type)), head(linear) {}
  WeightFormats(DType type, WeightFormat quantized) : dtype(type), linear(quantized), head(quantized) {}

  DType dtype;          // activations, the embedding, and matrices that are not quantized: bf16 or f32
  WeightFormat linear;  // the matrices of attention, experts and dense layers
  WeightFormat head;    // lm_head
  DeviceKind device = DeviceKind::cpu;  // whose layouts they have
  // Inputs of a checkpoint's own int4 groups, which are kept: -1: all of an output; 0: there are none. Its
  // matrices that are not quantized stay so.
  int64_t source_group = 0;

  bool quantizes() const { return is_quantized(linear) || is_quantized(head); }
  // "none", "int8" or "int4".
  std::string_view quantization() const {
    if (linear == WeightFormat::int8) return "int8";
    return linear == WeightFormat::int4 ? "int4" : "none";
  }
};

struct ModelWeights {
  WeightFormats formats;
  Tensor embed_tokens;  // bf16 or float32 [V, H], or the rows from first_vocab_row on
  int64_t first_vocab_row = 0;
  std::vector<LayerWeights> layers;
  Tensor norm;           // float32 [1, H]
  WeightMatrix lm_head;  // [V, H], or some chunks of V; n is 0 where there are none
};

// One tensor of the checkpoint, the part of it that is stored, and its place. A tensor may have two places
// (tied embeddings).
struct WeightPlace {
  enum class Form { vector, rows, packed };
  std::string name;
  std::vector<int64_t> shape;  // the whole tensor's
  Form form = Form::packed;
  WeightLayout layout;   // `packed` alone: the whole matrix's
  int half = 0;          // a fused pair's: 0 gate, 1 up
  parallel::Range part;  // stored elements of a vector, rows of `rows`, chunks of `packed`
  size_t offset = 0;     // where in the buffer the vector, the first stored row or chunk lies
};

struct WeightPlan {
  DType dtype = DType::bf16;            // activations and what is not quantized: bf16 or f32
  io::QuantizationConfig quantization;  // what the checkpoint says that fills it
  DeviceKind device = DeviceKind::cpu;  // whose layouts the places have
  std::vector<WeightPlace> places;
  size_t bytes = 0;
};

// The shard must name each expert once (storage_for()).
WeightPlan plan_weights(const io::ModelConfig& config, const WeightFormats& formats,
                        const WeightShard& stored);

// The weights that lie in a buffer as planned. It must outlive the result.
ModelWeights bind_weights(const io::ModelConfig& config, const WeightFormats& formats,
                          const WeightShard& stored, const Buffer& memory);

// One expert of a sparse layer alone, as the shard cuts it: its gate and its up projection, which lie at 0,
// then its down projection, each in one piece.
WeightPlan plan_expert(const io::ModelConfig& config, const WeightFormats& formats, const WeightShard& shard,
                       int64_t layer, int32_t expert);

// A part of a whole model, for work that has room for one at a time.
struct ModelPart {
  enum class Kind { embedding, layer, head };  // head: the last norm and lm_head
  Kind kind = Kind::layer;
  int64_t layer = 0;
};
WeightPlan plan_part(const io::ModelConfig& config, const WeightFormats& formats, ModelPart part);
// Only the part's fields are set; a layer is the only element of `layers`.
ModelWeights bind_part(const io::ModelConfig& config, const WeightFormats& formats, ModelPart part,
                       const Buffer& memory);

// A part of stored weights, as views: `wanted` must lie within `stored`. Moves no bytes.
ModelWeights select_weights(const ModelWeights& weights, const WeightShard& stored,
                            const WeightShard& wanted);

// Of one sparse layer, with `experts` [slots] in place of those that `wanted` names.
FeedForwardWeights select_layer_experts(const ModelWeights& weights, const WeightShard& stored,
                                        const WeightShard& wanted, int64_t layer,
                                        std::span<const int32_t> experts);

}  // namespace chorale::model
