#include "model/qwen3_moe.h"

#include <algorithm>
#include <utility>

#include "base/copy.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "model/rope_frequencies.h"

namespace chorale::model {
namespace {

size_t bytes_of_tables(const RankModel& parts) {
  const io::ModelConfig& config = parts.config;
  size_t bytes =
      Arena::matrix_bytes(DType::f32, 1, config.head_dim / 2) +
      Arena::matrix_bytes(DType::i64, config.num_hidden_layers, std::max<int64_t>(config.num_experts, 1));
  for (const ExpertSlots& layer : parts.expert_slots) {
    bytes += Arena::matrix_bytes(DType::i32, static_cast<int64_t>(layer.variants.size()), config.num_experts);
  }
  return bytes;
}

std::vector<DispatchTable> upload_tables(const Stream& stream, const RankModel& parts, Arena& arena) {
  std::vector<DispatchTable> tables;
  for (const ExpertSlots& layer : parts.expert_slots) {
    const auto variants = static_cast<int64_t>(layer.variants.size());
    DispatchTable table{.slots = arena.matrix(DType::i32, variants, parts.config.num_experts),
                        .slots_per_rank = layer.slots_per_rank,
                        .num_owners = parts.extent.group_size / parts.extent.copies,
                        .copies = parts.extent.copies};
    for (int64_t v = 0; v < variants; ++v) {
      upload<int32_t>(stream, layer.variants[static_cast<size_t>(v)], table.slots.middle_rows(v, 1));
    }
    tables.push_back(table);
  }
  return tables;
}

}  // namespace

Qwen3MoeModel::Qwen3MoeModel(const Stream& stream, RankModel parts)
    : weights_(std::move(parts.weights)),
      tables_(bytes_of_tables(parts), stream.device()),
      rope_frequencies_(tables_.matrix(DType::f32, 1, parts.config.head_dim / 2)),
      expert_load_(tables_.matrix(DType::i64, parts.config.num_hidden_layers,
                                  std::max<int64_t>(parts.config.num_experts, 1))),
      dispatch_tables_(upload_tables(stream, parts, tables_)),
      embed_tokens_(weights_.embed_tokens, weights_.first_vocab_row, parts.config.vocab_size,
                    TokenGroup(parts.groups.attention)),
      norm_(weights_.norm, static_cast<float>(parts.config.rms_norm_eps)),
      lm_head_(weights_.lm_head, parts.extent, parts.config, TokenGroup(parts.groups.attention)),
      scratch_(parts.config, weights_.formats, parts.limits, parts.extent, stream.device()) {
  const io::ModelConfig& config = parts.config;
  const RopeFrequencies frequencies = rope_frequencies(config);
  upload<float>(stream, frequencies.values, rope_frequencies_);
  stream.synchronize();
  rope_scale_ = frequencies.scale;

  const auto eps = static_cast<float>(config.rms_norm_eps);
  const TokenGroup group(parts.groups.attention);
  for (size_t l = 0; l < weights_.layers.size(); ++l) {
    const LayerWeights& w = weights_.layers[l];
    const DispatchTable* table = dispatch_tables_.empty() ? nullptr : &dispatch_tables_[l];
    const Tensor load = expert_load_.middle_rows(static_cast<int64_t>(l), 1);
    Layer layer{.input_norm = {w.input_norm, eps},
                .attention = {w.attention, config, group},
                .post_attention_norm = {w.post_attention_norm, eps},
                .feed_forward = DenseMlp(w.feed_forward, group)};
    if (w.feed_forward.is_sparse()) {
      layer.feed_forward.emplace<SparseMoe>(w.feed_forward, config, table, parts.groups.experts, load);
    }
    layers_.push_back(std::move(layer));
  }
}

Update Qwen3MoeModel::feed_forward(const Stream& stream, Layer& layer, const Tensor& x,
                                   const StepInputs& in) {
  if (auto* experts = std::get_if<SparseMoe>(&layer.feed_forward))
    return experts->forward(stream, x, in, scratch_);
  return std::get<DenseMlp>(layer.feed_forward).forward(stream, x, in, scratch_);
}

int64_t Qwen3MoeModel::num_slot_variants(int64_t layer) const {
  return dispatch_tables_.empty() ? 0 : dispatch_tables_[static_cast<size_t>(layer)].slots.rows();
}

// The layers have views of both, so they are changed where they lie.
void Qwen3MoeModel::place_experts(const Stream& stream, int64_t layer, const FeedForwardWeights& experts,
                                  const ExpertSlots& slots) {
  const Tensor& table = dispatch_tables_.at(static_cast<size_t>(layer)).slots;
  FeedForwardWeights& held = weights_.layers[static_cast<size_t>(layer)].feed_forward;
  CHORALE_CHECK(held.gate_up.size() == experts.gate_up.size() && held.down.size() == experts.down.size() &&
                    table.rows() == std::ssize(slots.variants),
                "{} slots and {} variants in place of {} and {}", experts.gate_up.size(),
                slots.variants.size(), held.gate_up.size(), table.rows());
  stream.synchronize();  // what was given to the device may read them yet
  std::ranges::copy(experts.gate_up, held.gate_up.begin());
  std::ranges::copy(experts.down, held.down.begin());
  for (int64_t v = 0; v < table.rows(); ++v) {
    upload<int32_t>(stream, slots.variants[static_cast<size_t>(v)], table.middle_rows(v, 1));
  }
  stream.synchronize();
}

void Qwen3MoeModel::observe_layer(StepObserver& observer, size_t layer, const Tensor& x) const {
  const auto l = static_cast<int64_t>(layer);
  observer.hidden(l + 1, x);
  const auto* experts = std::get_if<SparseMoe>(&layers_[layer].feed_forward);
  if (experts != nullptr && experts->has_router())
    observer.router_logits(l, scratch_.router_logits.first_rows(x.rows()));
}

Tensor Qwen3MoeModel::forward(const Stream& stream, const StepInputs& in, const KvCache& cache,
                              StepObserver* observer) {
  const Tensor x = scratch_.residual.first_rows(in.home.count);
  const Tensor normed = scratch_.normed.first_rows(in.home.count);

  embed_tokens_.forward(stream, in, scratch_, x);
  rope_table(stream, in.positions, rope_frequencies_, rope_scale_,
             scratch_.cos_sin.first_rows(in.num_tokens()));
  if (observer != nullptr) observer->hidden(0, x);

  layers_.front().input_norm.forward(stream, x, normed);
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    const Update attended =
        layer.attention.forward(stream, normed, in, cache.layer(static_cast<int64_t>(l)), scratch_);
    layer.post_attention_norm.add_forward(stream, attended, x, normed);

    const Update fed = feed_forward(stream, layer, normed, in);
    if (l + 1 < layers_.size())
      layers_[l + 1].input_norm.add_forward(stream, fed, x, normed);
    else
      fed.add_to(stream, x);
    if (observer != nullptr) observe_layer(*observer, l, x);
  }

  // Only the rows that are wanted go through the head.
  const Tensor last = scratch_.last_hidden.first_rows(in.home_logits_rows.columns());
  const Tensor last_normed = scratch_.last_normed.first_rows(in.home_logits_rows.columns());
  gather_rows(stream, in.home_logits_rows, x, last);
  norm_.forward(stream, last, last_normed);
  return lm_head_.forward(stream, last_normed, in, scratch_);
}

}  // namespace chorale::model
