#include "tools/prune/layerwise_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/math.h"
#include "base/progress_bar.h"
#include "engine/parallel_plan.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "model/layers.h"
#include "model/rope_frequencies.h"
#include "model/weight_loader.h"

namespace chorale::tools {
namespace {

constexpr int64_t kTokensPerStep = 4096;
constexpr int64_t kScoredRows = 128;  // rows of logits at a time; a vocabulary may be large

// One layer is in memory, so its caches are all there is.
io::ModelConfig one_layer_of(const io::ModelConfig& config) {
  io::ModelConfig one = config;
  one.num_hidden_layers = 1;
  one.mlp_only_layers.clear();
  one.decoder_sparse_step = 1;
  return one;
}

model::StepLimits limits_of(int64_t window, int64_t windows) {
  return {.max_tokens = window * windows,
          .max_segments = windows,
          .max_table_blocks = windows * ceil_div(window, kKvBlockTokens),
          .max_logits_rows = 1};
}

}  // namespace

LayerwiseModel::LayerwiseModel(const io::Checkpoint& checkpoint, const io::ModelConfig& config, DType dtype,
                               const Stream& stream, int64_t window)
    : checkpoint_(checkpoint),
      config_(config),
      dtype_(dtype),
      stream_(stream),
      window_(window),
      windows_per_step_(std::max<int64_t>(1, kTokensPerStep / window)),
      limits_(limits_of(window, windows_per_step_)),
      extent_(engine::plan_parallel(config, {.communicator = "local"}, limits_, {0}).ranks.front().extent),
      inputs_(limits_, 1, 0, stream.device()),
      cache_(one_layer_of(config), config.num_key_value_heads, dtype, limits_.max_table_blocks,
             stream.device()),
      scratch_(config, dtype, limits_, extent_, stream.device()),
      tables_(Arena::matrix_bytes(DType::f32, 1, config.head_dim / 2)),
      rope_frequencies_(tables_.matrix(DType::f32, 1, config.head_dim / 2)) {
  const model::RopeFrequencies frequencies = model::rope_frequencies(config);
  std::copy(frequencies.values.begin(), frequencies.values.end(), rope_frequencies_.data<float>());
  rope_scale_ = frequencies.scale;
}

LoadedPart LayerwiseModel::load(model::ModelPart part) const {
  const model::WeightPlan plan = model::plan_part(config_, dtype_, part);
  LoadedPart loaded{Buffer(plan.bytes), {}};
  ProgressBar quiet("", plan.bytes, false);
  model::load_weights(checkpoint_, plan, loaded.memory, stream_.pool(), quiet);
  loaded.weights = model::bind_part(config_, dtype_, part, loaded.memory);
  return loaded;
}

template <typename Run>
void LayerwiseModel::for_each_step(int64_t num_tokens, const Run& run) {
  const int64_t blocks_per_window = ceil_div(window_, kKvBlockTokens);
  for (int64_t first = 0; first < num_tokens; first += windows_per_step_ * window_) {
    const int64_t count = std::min(windows_per_step_ * window_, num_tokens - first);
    segments_.clear();
    for (int64_t start = 0; start < count; start += window_) {
      segments_.push_back({.first_token = start,
                           .num_tokens = std::min(window_, count - start),
                           .first_position = 0,
                           .first_block = static_cast<int64_t>(segments_.size()) * blocks_per_window});
    }
    token_ids_.assign(static_cast<size_t>(count), 0);  // only the embedding reads them, and it has its own
    block_tables_.resize(segments_.size() * static_cast<size_t>(blocks_per_window));
    std::iota(block_tables_.begin(), block_tables_.end(), 0);
    run(Step{first, count,
             inputs_.upload(stream_, {.token_ids = token_ids_,
                                      .segments = segments_,
                                      .block_tables = block_tables_,
                                      .logits_tokens = {}})});
  }
}

void LayerwiseModel::forward(std::span<const int32_t> token_ids, const Tensor& residual,
                             const std::function<void(int64_t layer)>& on_layer, const Observe& observe) {
  embed(token_ids, residual);
  for (int64_t l = 0; l < config_.num_hidden_layers; ++l) {
    const LoadedPart part = load({.kind = model::ModelPart::Kind::layer, .layer = l});
    attend(part.layer(), residual);
    feed_forward(config_, part.layer(), residual, observe ? observe(l, part.layer()) : nullptr);
    if (on_layer) on_layer(l);
  }
}

void LayerwiseModel::embed(std::span<const int32_t> token_ids, const Tensor& residual) {
  const LoadedPart part = load({.kind = model::ModelPart::Kind::embedding});
  std::vector<int32_t> ids(token_ids.begin(), token_ids.end());
  const auto n = static_cast<int64_t>(ids.size());
  chorale::embed(stream_, Tensor(ids.data(), DType::i32, 1, n, n), part.weights.embed_tokens,
                 residual.first_rows(n));
}

void LayerwiseModel::attend(const model::LayerWeights& layer, const Tensor& residual) {
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const model::RmsNorm norm(layer.input_norm, eps);
  const model::Attention attention(layer.attention, config_, model::TokenGroup(comm::Communicator()));
  for_each_step(residual.rows(), [&](const Step& step) {
    const Tensor x = residual.middle_rows(step.first, step.count);
    const Tensor normed = scratch_.normed.first_rows(step.count);
    rope_table(stream_, step.inputs.positions, rope_frequencies_, rope_scale_,
               scratch_.cos_sin.first_rows(step.count));
    norm.forward(stream_, x, normed);
    attention.forward(stream_, normed, step.inputs, cache_.layer(0), scratch_).add_to(stream_, x);
  });
}

void LayerwiseModel::feed_forward(const io::ModelConfig& config, const model::LayerWeights& layer,
                                  const Tensor& residual, const ExpertObserver& observer) {
  const model::RmsNorm norm(layer.post_attention_norm, static_cast<float>(config.rms_norm_eps));
  // A layer of another model has experts of another width, and its own scratch memory.
  std::unique_ptr<model::Workspace> own;
  if (config != config_) {
    const model::RankExtent extent =
        engine::plan_parallel(config, {.communicator = "local"}, limits_, {0}).ranks.front().extent;
    own = std::make_unique<model::Workspace>(config, dtype_, limits_, extent, stream_.device());
  }
  const model::Workspace& scratch = own ? *own : scratch_;

  std::vector<int64_t> load(static_cast<size_t>(std::max<int64_t>(config.num_experts, 1)));
  const auto width = static_cast<int64_t>(load.size());
  const Tensor load_tensor(load.data(), DType::i64, 1, width, width);
  const bool sparse = layer.feed_forward.is_sparse();
  std::optional<model::DenseMlp> dense;
  std::optional<model::SparseMoe> experts;
  if (sparse) {
    experts.emplace(layer.feed_forward, config, nullptr, comm::Communicator(), load_tensor);
  } else {
    dense.emplace(layer.feed_forward, model::TokenGroup(comm::Communicator()));
  }
  for_each_step(residual.rows(), [&](const Step& step) {
    const Tensor x = residual.middle_rows(step.first, step.count);
    const Tensor normed = scratch.normed.first_rows(step.count);
    norm.forward(stream_, x, normed);
    if (!sparse) return dense->forward(stream_, normed, step.inputs, scratch).add_to(stream_, x);
    experts->forward(stream_, normed, step.inputs, scratch).add_to(stream_, x);
    if (!observer) return;
    const int64_t rows = step.count * (experts->has_router() ? config.num_experts_per_tok : 1);
    observer({.num_tokens = step.count,
              .rows = experts->has_router() ? scratch.expert_rows() : ExpertRows{},
              .inner = scratch.expert_inner.first_rows(rows)});
  });
}

void LayerwiseModel::normed(const model::LayerWeights& layer, const Tensor& residual,
                            const Tensor& out) const {
  rms_norm(stream_, residual, layer.post_attention_norm, static_cast<float>(config_.rms_norm_eps), out);
}

EvalResult LayerwiseModel::score(const LoadedPart& head, std::span<const int32_t> token_ids,
                                 const Tensor& residual) const {
  const int64_t vocab = config_.vocab_size;
  Arena arena(Arena::matrix_bytes(dtype_, kScoredRows, config_.hidden_size) +
              Arena::dense_matrix_bytes(DType::f32, kScoredRows, vocab));
  const Tensor normed = arena.matrix(dtype_, kScoredRows, config_.hidden_size);
  const Tensor logits = arena.dense_matrix(DType::f32, kScoredRows, vocab);
  EvalResult result;
  std::vector<double> nll(static_cast<size_t>(kScoredRows));
  double sum = 0;
  const int64_t total = residual.rows();
  result.windows = ceil_div(total, window_);
  for (int64_t first = 0; first < total; first += kScoredRows) {
    const int64_t rows = std::min(kScoredRows, total - first);
    rms_norm(stream_, residual.middle_rows(first, rows), head.weights.norm,
             static_cast<float>(config_.rms_norm_eps), normed.first_rows(rows));
    matmul(stream_, normed.first_rows(rows),
           std::array{MatmulTarget{head.weights.lm_head, {}, logits.first_rows(rows)}});
    // What follows a window is not predicted.
    const auto is_scored = [&](int64_t t) { return (t + 1) % window_ != 0 && t + 1 < total; };
    stream_.pool().parallel(rows, [&](int64_t r) {
      const int64_t t = first + r;
      if (!is_scored(t)) return;
      nll[static_cast<size_t>(r)] = negative_log_likelihood(
          {logits.row<float>(r), static_cast<size_t>(vocab)}, token_ids[static_cast<size_t>(t + 1)]);
    });
    for (int64_t r = 0; r < rows; ++r) {
      if (!is_scored(first + r)) continue;
      const double value = nll[static_cast<size_t>(r)];
      if (std::isnan(value)) throw_error("the model's logits at token {} are NaN", first + r);
      sum += value;
      ++result.tokens;
    }
  }
  result.nll = sum / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.nll);
  return result;
}

EvalResult evaluate_layerwise(LayerwiseModel& model, std::span<const int32_t> token_ids, int64_t max_windows,
                              const std::function<void()>& on_layer) {
  auto tokens = static_cast<int64_t>(token_ids.size());
  if (tokens < 2) throw_error("the text has {} tokens; at least 2 are needed to score it", tokens);
  if (max_windows > 0) tokens = std::min(tokens, max_windows * model.window());
  if (tokens % model.window() == 1) --tokens;  // a last window of one token has nothing to predict
  const auto ids = token_ids.first(static_cast<size_t>(tokens));
  Arena arena(Arena::matrix_bytes(DType::f32, tokens, model.config().hidden_size));
  const Tensor residual = arena.matrix(DType::f32, tokens, model.config().hidden_size);
  model.forward(ids, residual, [&](int64_t /*layer*/) {
    if (on_layer) on_layer();
  });
  return model.score(model.load({.kind = model::ModelPart::Kind::head}), ids, residual);
}

}  // namespace chorale::tools
