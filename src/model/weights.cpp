#include "model/weights.h"

#include <utility>

#include <fmt/format.h>

#include "parallel/sharding_plan.h"

namespace chorale::model {
namespace {

// Walks through a buffer and gives each weight its place. Without a buffer it only plans.
class Placer {
 public:
  Placer(const io::ModelConfig& config, DType dtype, std::byte* base)
      : sizes_{.vocab = config.vocab_size,
               .query_heads = config.num_attention_heads,
               .kv_heads = config.num_key_value_heads,
               .intermediate = config.intermediate_size,
               .expert_intermediate = config.moe_intermediate_size},
        base_(base) {
    plan_.dtype = dtype;
  }

  Tensor vector(const std::string& name, int64_t n) {
    const size_t offset = take(static_cast<size_t>(n) * sizeof(float));
    add_slot({.name = name, .shape = {n}, .form = WeightSlot::Form::vector, .offset = offset});
    return Tensor(at(offset), DType::f32, 1, n, n);
  }

  Tensor rows(const std::string& name, int64_t rows, int64_t columns) {
    const size_t offset = take(static_cast<size_t>(rows * columns) * size_of(plan_.dtype));
    add_slot({.name = name, .shape = {rows, columns}, .form = WeightSlot::Form::rows, .offset = offset});
    return Tensor(at(offset), plan_.dtype, rows, columns, columns);
  }

  PackedMatrix matrix(const std::string& name, int64_t n, int64_t k) { return matrix_from(name, name, n, k); }

  // A matrix that is split as `name` says but has the values of another tensor.
  PackedMatrix matrix_from(const std::string& name, const std::string& source, int64_t n, int64_t k) {
    const PackedLayout layout = layout_of(name, n, k);
    const size_t offset = take(static_cast<size_t>(layout.bytes()));
    add_slot({.name = source, .shape = {n, k}, .layout = layout, .offset = offset});
    return {layout, at(offset)};
  }

  // Gate and up as one matrix whose panels alternate.
  PackedMatrix fused_pair(const std::string& gate, const std::string& up, int64_t n, int64_t k) {
    PackedLayout layout = layout_of(gate, n, k);
    layout.fused_pair = true;
    const size_t offset = take(static_cast<size_t>(layout.bytes()));
    add_slot({.name = gate, .shape = {n, k}, .layout = layout, .half = 0, .offset = offset});
    add_slot({.name = up, .shape = {n, k}, .layout = layout, .half = 1, .offset = offset});
    return {layout, at(offset)};
  }

  WeightPlan finish() {
    plan_.bytes = used_;
    return std::move(plan_);
  }

 private:
  PackedLayout layout_of(const std::string& name, int64_t n, int64_t k) const {
    const parallel::ShardingRule& rule = parallel::rule_for(name);
    const int64_t chunks = parallel::num_chunks(rule, sizes_);
    const bool by_input = rule.split == parallel::Split::input || rule.split == parallel::Split::expert_input;
    return {.dtype = plan_.dtype,
            .n = n,
            .k = k,
            .n_chunks = by_input ? 1 : chunks,
            .k_chunks = by_input ? chunks : 1};
  }

  size_t take(size_t bytes) {
    const size_t offset = used_;
    used_ += Arena::footprint(bytes);
    return offset;
  }
  std::byte* at(size_t offset) const { return base_ == nullptr ? nullptr : base_ + offset; }
  void add_slot(WeightSlot slot) {
    if (base_ == nullptr) plan_.slots.push_back(std::move(slot));
  }

  parallel::ShardedSizes sizes_;
  std::byte* base_;
  size_t used_ = 0;
  WeightPlan plan_;
};

AttentionWeights place_attention(Placer& placer, const io::ModelConfig& config, const std::string& prefix) {
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  AttentionWeights w;
  w.q_proj = placer.matrix(prefix + "q_proj.weight", query, hidden);
  w.k_proj = placer.matrix(prefix + "k_proj.weight", kv, hidden);
  w.v_proj = placer.matrix(prefix + "v_proj.weight", kv, hidden);
  w.o_proj = placer.matrix(prefix + "o_proj.weight", hidden, query);
  if (config.attention_bias) {
    w.q_bias = placer.vector(prefix + "q_proj.bias", query);
    w.k_bias = placer.vector(prefix + "k_proj.bias", kv);
    w.v_bias = placer.vector(prefix + "v_proj.bias", kv);
    w.o_bias = placer.vector(prefix + "o_proj.bias", hidden);
  }
  w.q_norm = placer.vector(prefix + "q_norm.weight", config.head_dim);
  w.k_norm = placer.vector(prefix + "k_norm.weight", config.head_dim);
  return w;
}

void place_expert(Placer& placer, const std::string& prefix, int64_t intermediate, int64_t hidden,
                  FeedForwardWeights& w) {
  const PackedMatrix gate_up =
      placer.fused_pair(prefix + "gate_proj.weight", prefix + "up_proj.weight", intermediate, hidden);
  const PackedMatrix down = placer.matrix(prefix + "down_proj.weight", hidden, intermediate);
  w.gate_up_layout = gate_up.layout;
  w.down_layout = down.layout;
  w.gate_up.push_back(gate_up.data);
  w.down.push_back(down.data);
}

FeedForwardWeights place_feed_forward(Placer& placer, const io::ModelConfig& config, int64_t layer,
                                      const std::string& prefix) {
  FeedForwardWeights w;
  if (!config.is_sparse_layer(layer)) {
    place_expert(placer, prefix, config.intermediate_size, config.hidden_size, w);
    return w;
  }
  w.router = placer.matrix(prefix + "gate.weight", config.num_experts, config.hidden_size);
  for (int64_t e = 0; e < config.num_experts; ++e) {
    place_expert(placer, fmt::format("{}experts.{}.", prefix, e), config.moe_intermediate_size,
                 config.hidden_size, w);
  }
  return w;
}

ModelWeights place_all(Placer& placer, const io::ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  ModelWeights w;
  w.embed_tokens = placer.rows("model.embed_tokens.weight", config.vocab_size, hidden);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string prefix = fmt::format("model.layers.{}.", l);
    LayerWeights& layer = w.layers.emplace_back();
    layer.input_norm = placer.vector(prefix + "input_layernorm.weight", hidden);
    layer.attention = place_attention(placer, config, prefix + "self_attn.");
    layer.post_attention_norm = placer.vector(prefix + "post_attention_layernorm.weight", hidden);
    layer.feed_forward = place_feed_forward(placer, config, l, prefix + "mlp.");
  }
  w.norm = placer.vector("model.norm.weight", hidden);
  const std::string head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  w.lm_head = placer.matrix_from("lm_head.weight", head, config.vocab_size, hidden);
  return w;
}

}  // namespace

WeightPlan plan_weights(const io::ModelConfig& config, DType dtype) {
  Placer placer(config, dtype, nullptr);
  place_all(placer, config);
  return placer.finish();
}

ModelWeights bind_weights(const io::ModelConfig& config, DType dtype, std::byte* base) {
  CHORALE_CHECK(base != nullptr);
  Placer placer(config, dtype, base);
  return place_all(placer, config);
}

}  // namespace chorale::model
