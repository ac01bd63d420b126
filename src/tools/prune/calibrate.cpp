#include "tools/prune/calibrate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/fixed_point.h"

namespace chorale::tools {
namespace {

int64_t first_row_of(const ExpertStep& step, int64_t expert) {
  return step.rows.all_tokens() ? 0 : step.rows.offsets.data<int32_t>()[expert];
}
int64_t end_row_of(const ExpertStep& step, int64_t expert) {
  return step.rows.all_tokens() ? step.num_tokens : step.rows.offsets.data<int32_t>()[expert + 1];
}

}  // namespace

ExpertScorer::ExpertScorer(const io::ModelConfig& config, const Stream& stream, bool with_reap)
    : config_(config), stream_(stream), with_reap_(with_reap) {}

void ExpertScorer::begin(const model::LayerWeights& layer) {
  layer_ = &layer;
  const auto experts = static_cast<size_t>(config_.num_experts);
  scores_ = {std::vector<int64_t>(experts), std::vector<double>(experts), std::vector<double>(experts)};
}

// Each row is a token of its own here, so that its output is not added to those of the token's other experts.
void ExpertScorer::measure_outputs(const ExpertStep& step, int64_t num_rows) {
  const model::FeedForwardWeights& weights = layer_->feed_forward;
  const int64_t hidden = config_.hidden_size;
  const size_t bytes = Arena::matrix_bytes(DType::i64, num_rows, hidden + 1) +
                       Arena::matrix_bytes(DType::f32, num_rows, hidden);
  Arena arena(bytes);
  const Tensor sums = arena.matrix(DType::i64, num_rows, hidden + 1);
  const Tensor outputs = arena.matrix(DType::f32, num_rows, hidden);
  in_order_.resize(static_cast<size_t>(num_rows));
  std::iota(in_order_.begin(), in_order_.end(), 0);
  ExpertRows rows = step.rows;
  if (!rows.all_tokens()) {
    rows.tokens = Tensor(in_order_.data(), DType::i32, 1, num_rows, num_rows);
    rows.weights = {};
  }
  clear_sums(stream_, sums);
  order_free_matmul(stream_, step.inner.first_rows(num_rows), {weights.down_layout, weights.down}, rows,
                    sums);
  add_sums(stream_, sums, {}, outputs);
  norms_.resize(static_cast<size_t>(num_rows));
  stream_.pool().parallel(num_rows, [&](int64_t r) {
    const float* row = outputs.row<float>(r);
    double squares = 0;
    for (int64_t h = 0; h < hidden; ++h) squares += double{row[h]} * double{row[h]};
    norms_[static_cast<size_t>(r)] = std::sqrt(squares);
  });
}

void ExpertScorer::observe(const ExpertStep& step) {
  const int64_t num_rows = end_row_of(step, config_.num_experts - 1);
  if (with_reap_) measure_outputs(step, num_rows);
  for (int64_t e = 0; e < config_.num_experts; ++e) {
    const auto i = static_cast<size_t>(e);
    for (int64_t r = first_row_of(step, e); r < end_row_of(step, e); ++r) {
      const double gate = step.rows.all_tokens() ? 1.0 : double{step.rows.weights.data<float>()[r]};
      ++scores_.tokens[i];
      scores_.gate_weight[i] += gate;
      if (with_reap_) scores_.reap[i] += gate * norms_[static_cast<size_t>(r)];
    }
  }
}

ExpertScores ExpertScorer::finish() {
  for (size_t e = 0; e < scores_.reap.size(); ++e) {
    if (scores_.tokens[e] > 0) scores_.reap[e] /= static_cast<double>(scores_.tokens[e]);
  }
  return std::exchange(scores_, {});
}

std::vector<ExpertScores> calibrate(LayerwiseModel& model, std::span<const int32_t> token_ids, bool with_reap,
                                    const std::function<void()>& on_layer) {
  const io::ModelConfig& config = model.config();
  const auto tokens = static_cast<int64_t>(token_ids.size());
  Arena arena(Arena::matrix_bytes(DType::f32, tokens, config.hidden_size));
  const Tensor residual = arena.matrix(DType::f32, tokens, config.hidden_size);
  ExpertScorer scorer(config, model.stream(), with_reap);
  std::vector<ExpertScores> scores(static_cast<size_t>(config.num_hidden_layers));
  const auto observe = [&](int64_t layer, const model::LayerWeights& weights) -> ExpertObserver {
    if (!config.is_sparse_layer(layer)) return nullptr;
    scorer.begin(weights);
    return [&](const ExpertStep& step) { scorer.observe(step); };
  };
  const auto after = [&](int64_t layer) {
    if (config.is_sparse_layer(layer)) scores[static_cast<size_t>(layer)] = scorer.finish();
    if (on_layer) on_layer();
  };
  model.forward(token_ids, residual, after, observe);
  return scores;
}

}  // namespace chorale::tools
