#include "tools/bench/floor.h"

#include <algorithm>
#include <string_view>

namespace chorale::bench {
namespace {

double stored_bytes(const model::WeightPlace& place, const Backend& backend) {
  switch (place.form) {
    case model::WeightPlace::Form::vector:
      return static_cast<double>(place.part.size()) * sizeof(float);
    case model::WeightPlace::Form::rows:
      return 0;  // the embedding: a row for each token
    case model::WeightPlace::Form::packed:
      return static_cast<double>(backend.weight_bytes(place.layout)) / (place.layout.fused_pair ? 2 : 1);
  }
  return 0;
}

// What the key, or the value, of one token takes.
double kv_head_bytes(int64_t head_dim, DType dtype) {
  const size_t scale = dtype == DType::i8 ? sizeof(float) : 0;
  return static_cast<double>(static_cast<size_t>(head_dim) * size_of(dtype) + scale);
}

}  // namespace

WeightBytes weight_bytes(const io::ModelConfig& config, const model::WeightPlan& plan) {
  const Backend& backend = backend_of(plan.device);
  WeightBytes bytes;
  double experts = 0;
  int64_t sparse_layers = 0;
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) sparse_layers += config.is_sparse_layer(l) ? 1 : 0;
  for (const model::WeightPlace& place : plan.places) {
    const std::string_view name = place.name;
    const bool is_router = name.ends_with("mlp.gate.weight");
    if (is_router && config.num_experts == 1) continue;  // never read: nothing is routed
    if (name.find(".experts.") != std::string_view::npos)
      experts += stored_bytes(place, backend);
    else if (name.find(".layers.") != std::string_view::npos)
      bytes.layers += stored_bytes(place, backend);
    else
      bytes.head += stored_bytes(place, backend);  // with the last norm
  }
  if (sparse_layers > 0) bytes.per_expert = experts / static_cast<double>(sparse_layers * config.num_experts);
  return bytes;
}

OpWork step_floor(const io::ModelConfig& c, const WeightBytes& weights, DType kv_dtype,
                  const StepShape& shape) {
  const auto layers = static_cast<double>(c.num_hidden_layers);
  const auto tokens = static_cast<double>(shape.sequences * shape.tokens_each);
  const auto head_dim = static_cast<double>(c.head_dim);
  const auto hidden = static_cast<double>(c.hidden_size);
  const auto heads = static_cast<double>(c.num_attention_heads);
  const auto kv_heads = static_cast<double>(c.num_key_value_heads);

  OpWork work;
  const double context = static_cast<double>(shape.first_position + shape.tokens_each);
  const double cached_heads = static_cast<double>(shape.sequences) * context * 2 * kv_heads * layers;
  work.bytes = weights.layers + shape.touched_experts * weights.per_expert +
               (shape.logits_rows > 0 ? weights.head : 0) +
               cached_heads * kv_head_bytes(c.head_dim, kv_dtype);

  const double attention_parameters = 2 * (heads + kv_heads) * head_dim * hidden;
  double layer_parameters = 0;
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
    const bool sparse = c.is_sparse_layer(l);
    const int64_t width = sparse ? c.num_experts_per_tok * c.moe_intermediate_size : c.intermediate_size;
    // One expert is a dense layer: nothing is routed.
    const int64_t router = sparse && c.num_experts > 1 ? c.num_experts : 0;
    layer_parameters += attention_parameters + hidden * static_cast<double>(3 * width + router);
  }
  // Token i of a sequence attends to first_position + i + 1 positions.
  const double pairs =
      tokens * (static_cast<double>(shape.first_position) + (static_cast<double>(shape.tokens_each) + 1) / 2);
  work.operations = 2 * tokens * layer_parameters + 4 * layers * pairs * heads * head_dim +
                    2 * static_cast<double>(shape.logits_rows) * static_cast<double>(c.vocab_size) * hidden;
  return work;
}

double floor_seconds(const OpWork& work, const Ceilings& ceilings) {
  return std::max(work.bytes / ceilings.read_bandwidth, work.operations / ceilings.peak_operations);
}

bool is_bound_by_memory(const OpWork& work, const Ceilings& ceilings) {
  return work.bytes / ceilings.read_bandwidth >= work.operations / ceilings.peak_operations;
}

}  // namespace chorale::bench
