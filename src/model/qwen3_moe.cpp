#include "model/qwen3_moe.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "model/rope_frequencies.h"

namespace chorale::model {

Qwen3MoeModel::Qwen3MoeModel(const io::ModelConfig& config, ModelWeights weights, const StepLimits& limits)
    : weights_(std::move(weights)),
      norm_(weights_.norm, static_cast<float>(config.rms_norm_eps)),
      frequency_memory_(static_cast<size_t>(config.head_dim / 2) * sizeof(float)),
      rope_frequencies_(frequency_memory_.data(), DType::f32, 1, config.head_dim / 2, config.head_dim / 2),
      scratch_(config, weights_.embed_tokens.dtype(), limits) {
  const RopeFrequencies frequencies = rope_frequencies(config);
  std::copy(frequencies.values.begin(), frequencies.values.end(), rope_frequencies_.data<float>());
  rope_scale_ = frequencies.scale;

  const auto eps = static_cast<float>(config.rms_norm_eps);
  const comm::Communicator group;
  for (const LayerWeights& w : weights_.layers) {
    layers_.push_back({.input_norm = {w.input_norm, eps},
                       .attention = {w.attention, config, group},
                       .post_attention_norm = {w.post_attention_norm, eps},
                       .feed_forward = {w.feed_forward, config, group}});
  }
}

Tensor Qwen3MoeModel::forward(const Stream& stream, const StepInputs& in, const KvCache& cache,
                              StepObserver* observer) {
  const Tensor x = scratch_.residual.first_rows(in.num_tokens());
  const Tensor normed = scratch_.normed.first_rows(in.num_tokens());

  embed(stream, in.token_ids, weights_.embed_tokens, x);
  rope_table(stream, in.positions, rope_frequencies_, rope_scale_,
             scratch_.cos_sin.first_rows(in.num_tokens()));
  if (observer != nullptr) observer->hidden(0, x);

  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const auto l = static_cast<int64_t>(i);
    layer.input_norm.forward(stream, x, normed);
    layer.attention.forward_add(stream, normed, in.batch, cache.layer(l), scratch_, x);
    layer.post_attention_norm.forward(stream, x, normed);
    layer.feed_forward.forward_add(stream, normed, scratch_, x);

    if (observer == nullptr) continue;
    observer->hidden(l + 1, x);
    if (layer.feed_forward.has_router())
      observer->router_logits(l, scratch_.router_logits.first_rows(x.rows()));
  }

  // Only the rows that are wanted go through the head.
  const int64_t rows = in.logits_rows.columns();
  const Tensor last = scratch_.last_hidden.first_rows(rows);
  const Tensor last_normed = scratch_.last_normed.first_rows(rows);
  const Tensor logits = scratch_.logits.first_rows(rows);
  gather_rows(stream, in.logits_rows, x, last);
  norm_.forward(stream, last, last_normed);
  matmul(stream, last_normed, std::array{MatmulTarget{weights_.lm_head, {}, logits}});
  return logits;
}

}  // namespace chorale::model
