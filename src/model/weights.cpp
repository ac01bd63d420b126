#include "model/weights.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "parallel/sharding_plan.h"

namespace chorale::model {
namespace {

using parallel::ChunkUnit;
using parallel::Range;

Range range_of(const WeightShard& shard, ChunkUnit unit) {
  switch (unit) {
    case ChunkUnit::none:
      return {0, 1};
    case ChunkUnit::vocab:
      return shard.head;
    case ChunkUnit::query_heads:
      return shard.query;
    case ChunkUnit::kv_heads:
      return shard.kv;
    case ChunkUnit::intermediate:
      return shard.dense;
    case ChunkUnit::expert_intermediate:
      return shard.expert;
  }
  return {0, 1};
}

// A matrix of which a rank has no chunk.
WeightMatrix without_outputs(const WeightLayout& whole) {
  return {.layout = {.format = whole.format, .n = 0, .k = whole.k, .group_k = whole.group_k}};
}

// Walks through a buffer and gives each weight its place. Without a buffer it only plans.
class Placer {
 public:
  Placer(const io::ModelConfig& config, const WeightFormats& formats, const WeightShard& stored,
         const Buffer* memory)
      : sizes_(sharded_sizes(config)),
        formats_(formats),
        backend_(backend_of(formats.device)),
        stored_(stored),
        memory_(memory) {
    plan_.dtype = formats.dtype;
    plan_.quantization = config.quantization;
    plan_.device = formats.device;
  }

  const WeightFormats& formats() const { return formats_; }

  Tensor vector(const std::string& name, int64_t n) {
    const parallel::ShardingRule& rule = parallel::rule_for(name);
    const int64_t per_chunk = n / parallel::num_chunks(rule, sizes_);
    const Range chunks = range_of(stored_, rule.unit);
    const Range part{chunks.begin * per_chunk, chunks.end * per_chunk};
    const size_t offset = take(static_cast<size_t>(part.size()) * sizeof(float));
    add_place(
        {.name = name, .shape = {n}, .form = WeightPlace::Form::vector, .part = part, .offset = offset});
    return Tensor(at(offset), DType::f32, 1, part.size(), part.size(), device());
  }

  Tensor rows(const std::string& name, int64_t rows, int64_t columns) {
    const Range part = stored_.vocab_rows;
    const size_t offset = take(static_cast<size_t>(part.size() * columns) * size_of(plan_.dtype));
    add_place({.name = name,
               .shape = {rows, columns},
               .form = WeightPlace::Form::rows,
               .part = part,
               .offset = offset});
    return Tensor(at(offset), plan_.dtype, part.size(), columns, columns, device());
  }

  WeightMatrix matrix(const std::string& name, int64_t n, int64_t k) { return matrix_from(name, name, n, k); }

  // A matrix that is split as `name` says but has the values of another tensor.
  WeightMatrix matrix_from(const std::string& name, const std::string& source, int64_t n, int64_t k) {
    const Placed placed = place(name, n, k, false);
    add_place({.name = source,
               .shape = {n, k},
               .layout = placed.whole,
               .part = placed.part,
               .offset = placed.offset});
    return stored_matrix(placed);
  }

  // Gate and up as one matrix whose panels alternate.
  WeightMatrix fused_pair(const std::string& gate, const std::string& up, int64_t n, int64_t k) {
    const Placed p = place(gate, n, k, true);
    add_place(
        {.name = gate, .shape = {n, k}, .layout = p.whole, .half = 0, .part = p.part, .offset = p.offset});
    add_place(
        {.name = up, .shape = {n, k}, .layout = p.whole, .half = 1, .part = p.part, .offset = p.offset});
    return stored_matrix(p);
  }

  WeightPlan finish() {
    plan_.bytes = used_;
    return std::move(plan_);
  }

 private:
  struct Placed {
    WeightLayout whole;
    Range part;
    size_t offset;
  };

  Placed place(const std::string& name, int64_t n, int64_t k, bool fused) {
    const parallel::ShardingRule& rule = parallel::rule_for(name);
    const int64_t chunks = parallel::num_chunks(rule, sizes_);
    const bool by_input = rule.split == parallel::Split::input || rule.split == parallel::Split::expert_input;
    WeightLayout whole{.format = format_of(name),
                       .n = n,
                       .k = k,
                       .n_chunks = by_input ? 1 : chunks,
                       .k_chunks = by_input ? chunks : 1,
                       .fused_pair = fused};
    whole.group_k = group_of(whole);
    const Range part = range_of(stored_, rule.unit);
    CHORALE_CHECK(part.begin >= 0 && part.end <= chunks, "{}: chunks {} to {} of {}", name, part.begin,
                  part.end, chunks);
    const bool stores = part.size() > 0;
    return {whole, part,
            take(stores ? static_cast<size_t>(backend_.weight_bytes(slice_layout(whole, part.size()))) : 0)};
  }

  WeightMatrix stored_matrix(const Placed& placed) const {
    if (placed.part.size() == 0) return without_outputs(placed.whole);
    return {slice_layout(placed.whole, placed.part.size()), at(placed.offset)};
  }

  WeightFormat format_of(std::string_view name) const {
    const std::string_view module = name.substr(0, name.size() - std::string_view(".weight").size());
    if (module.ends_with("mlp.gate")) return plain_format(plan_.dtype);
    if (formats_.source_group != 0 && plan_.quantization.leaves_plain(module))
      return plain_format(plan_.dtype);
    return module == "lm_head" ? formats_.head : formats_.linear;
  }

  // A checkpoint's groups are kept where they can be cut so that none crosses a chunk.
  int64_t group_of(const WeightLayout& layout) const {
    const int64_t source = formats_.source_group < 0 ? layout.k : formats_.source_group;
    const bool fits = source > 0 && std::gcd(layout.chunk_k(), source) % kGroupUnit == 0;
    return choose_group(layout.format, layout.chunk_k(), fits ? source : 0);
  }

  size_t take(size_t bytes) {
    const size_t offset = used_;
    used_ += Arena::footprint(bytes);
    return offset;
  }
  std::byte* at(size_t offset) const {
    return memory_ == nullptr ? nullptr : memory_->device_data() + offset;
  }
  Device device() const { return memory_ == nullptr ? Device() : memory_->device(); }
  void add_place(WeightPlace place) {
    if (memory_ == nullptr && place.part.size() > 0) plan_.places.push_back(std::move(place));
  }

  parallel::ShardedSizes sizes_;
  WeightFormats formats_;
  const Backend& backend_;
  const WeightShard& stored_;
  const Buffer* memory_;
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
  const WeightMatrix gate_up =
      placer.fused_pair(prefix + "gate_proj.weight", prefix + "up_proj.weight", intermediate, hidden);
  const WeightMatrix down = placer.matrix(prefix + "down_proj.weight", hidden, intermediate);
  w.gate_up_layout = gate_up.layout;
  w.down_layout = down.layout;
  w.gate_up.push_back(gate_up.data);
  w.down.push_back(down.data);
}

std::string expert_prefix(const std::string& mlp, int32_t expert) {
  return fmt::format("{}experts.{}.", mlp, expert);
}

FeedForwardWeights place_feed_forward(Placer& placer, const io::ModelConfig& config,
                                      const std::vector<int32_t>& experts, const std::string& prefix) {
  FeedForwardWeights w;
  if (experts.empty()) {
    place_expert(placer, prefix, config.intermediate_size, config.hidden_size, w);
    return w;
  }
  w.router = placer.matrix(prefix + "gate.weight", config.num_experts, config.hidden_size);
  for (const int32_t e : experts) {
    place_expert(placer, expert_prefix(prefix, e), config.moe_intermediate_size, config.hidden_size, w);
  }
  return w;
}

void place_embedding(Placer& placer, const io::ModelConfig& config, const WeightShard& stored,
                     ModelWeights& w) {
  w.first_vocab_row = stored.vocab_rows.begin;
  w.embed_tokens = placer.rows("model.embed_tokens.weight", config.vocab_size, config.hidden_size);
}

void place_layer(Placer& placer, const io::ModelConfig& config, const WeightShard& stored, int64_t l,
                 ModelWeights& w) {
  const std::string prefix = fmt::format("model.layers.{}.", l);
  LayerWeights& layer = w.layers.emplace_back();
  layer.input_norm = placer.vector(prefix + "input_layernorm.weight", config.hidden_size);
  layer.attention = place_attention(placer, config, prefix + "self_attn.");
  layer.post_attention_norm = placer.vector(prefix + "post_attention_layernorm.weight", config.hidden_size);
  layer.feed_forward =
      place_feed_forward(placer, config, stored.experts[static_cast<size_t>(l)], prefix + "mlp.");
}

void place_head(Placer& placer, const io::ModelConfig& config, ModelWeights& w) {
  w.norm = placer.vector("model.norm.weight", config.hidden_size);
  const std::string head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  w.lm_head = placer.matrix_from("lm_head.weight", head, config.vocab_size, config.hidden_size);
}

ModelWeights place_all(Placer& placer, const io::ModelConfig& config, const WeightShard& stored) {
  ModelWeights w;
  w.formats = placer.formats();
  place_embedding(placer, config, stored, w);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) place_layer(placer, config, stored, l, w);
  place_head(placer, config, w);
  return w;
}

ModelWeights place_part(Placer& placer, const io::ModelConfig& config, const WeightShard& stored,
                        ModelPart part) {
  ModelWeights w;
  w.formats = placer.formats();
  switch (part.kind) {
    case ModelPart::Kind::embedding:
      place_embedding(placer, config, stored, w);
      break;
    case ModelPart::Kind::layer:
      place_layer(placer, config, stored, part.layer, w);
      break;
    case ModelPart::Kind::head:
      place_head(placer, config, w);
      break;
  }
  return w;
}

}  // namespace

WeightPlan plan_weights(const io::ModelConfig& config, const WeightFormats& formats,
                        const WeightShard& stored) {
  Placer placer(config, formats, stored, nullptr);
  place_all(placer, config, stored);
  return placer.finish();
}

ModelWeights bind_weights(const io::ModelConfig& config, const WeightFormats& formats,
                          const WeightShard& stored, const Buffer& memory) {
  Placer placer(config, formats, stored, &memory);
  return place_all(placer, config, stored);
}

WeightPlan plan_expert(const io::ModelConfig& config, const WeightFormats& formats, const WeightShard& shard,
                       int64_t layer, int32_t expert) {
  Placer placer(config, formats, shard, nullptr);
  FeedForwardWeights w;
  place_expert(placer, expert_prefix(fmt::format("model.layers.{}.mlp.", layer), expert),
               config.moe_intermediate_size, config.hidden_size, w);
  return placer.finish();
}

WeightPlan plan_part(const io::ModelConfig& config, const WeightFormats& formats, ModelPart part) {
  const WeightShard whole = whole_model(config);
  Placer placer(config, formats, whole, nullptr);
  place_part(placer, config, whole, part);
  return placer.finish();
}

ModelWeights bind_part(const io::ModelConfig& config, const WeightFormats& formats, ModelPart part,
                       const Buffer& memory) {
  const WeightShard whole = whole_model(config);
  Placer placer(config, formats, whole, &memory);
  return place_part(placer, config, whole, part);
}

namespace {

WeightMatrix select(const Backend& backend, const WeightMatrix& matrix, Range stored, Range wanted) {
  if (wanted.size() == 0) return without_outputs(matrix.layout);
  return slice_chunks(backend, matrix, wanted.begin - stored.begin, wanted.size());
}

// The elements of a vector that belong to some chunks.
Tensor select(const Tensor& vector, Range stored, Range wanted) {
  if (vector.empty()) return vector;
  const int64_t per_chunk = vector.columns() / stored.size();
  return vector.middle_columns((wanted.begin - stored.begin) * per_chunk, wanted.size() * per_chunk);
}

// The same chunks of the experts in the slots wanted.
FeedForwardWeights select_experts(const Backend& backend, const FeedForwardWeights& weights,
                                  const std::vector<int32_t>& stored_experts,
                                  std::span<const int32_t> wanted_experts, Range stored, Range wanted) {
  FeedForwardWeights view = weights;
  view.gate_up.clear();
  view.down.clear();
  const int64_t first = wanted.begin - stored.begin;
  view.gate_up_layout = slice_in_place(weights.gate_up_layout, first, wanted.size());
  view.down_layout = slice_in_place(weights.down_layout, first, wanted.size());
  const auto add = [&](size_t position) {
    const WeightMatrix gate_up{weights.gate_up_layout, weights.gate_up[position]};
    const WeightMatrix down{weights.down_layout, weights.down[position]};
    view.gate_up.push_back(select(backend, gate_up, stored, wanted).data);
    view.down.push_back(select(backend, down, stored, wanted).data);
  };
  if (!weights.is_sparse()) add(0);
  for (const int32_t expert : wanted_experts) {
    const auto found = std::find(stored_experts.begin(), stored_experts.end(), expert);
    CHORALE_CHECK(found != stored_experts.end(), "expert {} is not stored", expert);
    add(static_cast<size_t>(found - stored_experts.begin()));
  }
  return view;
}

AttentionWeights select_heads(const Backend& backend, const AttentionWeights& w, const WeightShard& stored,
                              const WeightShard& wanted) {
  AttentionWeights view = w;
  view.q_proj = select(backend, w.q_proj, stored.query, wanted.query);
  view.k_proj = select(backend, w.k_proj, stored.kv, wanted.kv);
  view.v_proj = select(backend, w.v_proj, stored.kv, wanted.kv);
  view.o_proj = select(backend, w.o_proj, stored.query, wanted.query);
  view.q_bias = select(w.q_bias, stored.query, wanted.query);
  view.k_bias = select(w.k_bias, stored.kv, wanted.kv);
  view.v_bias = select(w.v_bias, stored.kv, wanted.kv);
  return view;
}

}  // namespace

ModelWeights select_weights(const ModelWeights& weights, const WeightShard& stored,
                            const WeightShard& wanted) {
  const Backend& backend = backend_of(weights.formats.device);
  ModelWeights view = weights;
  view.first_vocab_row = wanted.vocab_rows.begin;
  view.embed_tokens = weights.embed_tokens.middle_rows(wanted.vocab_rows.begin - stored.vocab_rows.begin,
                                                       wanted.vocab_rows.size());
  for (size_t l = 0; l < view.layers.size(); ++l) {
    LayerWeights& layer = view.layers[l];
    const bool sparse = layer.feed_forward.is_sparse();
    layer.attention = select_heads(backend, weights.layers[l].attention, stored, wanted);
    layer.feed_forward =
        select_experts(backend, weights.layers[l].feed_forward, stored.experts[l], wanted.experts[l],
                       sparse ? stored.expert : stored.dense, sparse ? wanted.expert : wanted.dense);
  }
  view.lm_head = select(backend, weights.lm_head, stored.head, wanted.head);
  return view;
}

FeedForwardWeights select_layer_experts(const ModelWeights& weights, const WeightShard& stored,
                                        const WeightShard& wanted, int64_t layer,
                                        std::span<const int32_t> experts) {
  const auto l = static_cast<size_t>(layer);
  const FeedForwardWeights& whole = weights.layers[l].feed_forward;
  CHORALE_CHECK(whole.is_sparse(), "layer {} has no experts", layer);
  return select_experts(backend_of(weights.formats.device), whole, stored.experts[l], experts, stored.expert,
                        wanted.expert);
}

}  // namespace chorale::model
