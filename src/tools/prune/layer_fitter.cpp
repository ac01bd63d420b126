#include "tools/prune/layer_fitter.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/element_rows.h"
#include "base/error.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "kernels/weight_writer.h"

namespace chorale::tools {
namespace {

// Of all experts' neurons, those with most energy are candidates; the Gram matrix is quadratic in them.
constexpr int64_t kMaxCandidates = 4096;
constexpr int64_t kBytesOfLogits = int64_t{1} << 28;
// Passing a layer and choosing neurons takes about as long as this many steps.
constexpr uint64_t kUnitsOfLayer = 200;
constexpr uint64_t kUnitsOfPass = 40;

io::ModelConfig with_one_expert(const io::ModelConfig& config, int64_t width) {
  io::ModelConfig fitted = config;
  fitted.num_experts = 1;
  fitted.num_experts_per_tok = 1;
  fitted.moe_intermediate_size = width;
  return fitted;
}

// Row `row` of a tensor [rows, columns] as float32.
void read_row(const io::TensorEntry& tensor, int64_t row, int64_t columns, float* out) {
  const auto row_bytes = columns * static_cast<int64_t>(size_of(tensor.dtype));
  convert_elements(tensor.bytes.data() + row * row_bytes, tensor.dtype, reinterpret_cast<std::byte*>(out),
                   DType::f32, columns);
}

float element(const Tensor& matrix, int64_t row, int64_t column) {
  return matrix.dtype() == DType::bf16 ? to_float(matrix.row<bf16>(row)[column])
                                       : matrix.row<float>(row)[column];
}

int64_t num_candidates(const io::ModelConfig& config, int64_t width) {
  const int64_t neurons = config.num_experts * config.moe_intermediate_size;
  return std::min(neurons, std::max(kMaxCandidates, 2 * width));
}

bool needs_predictions(const LayerFitOptions& options) {
  return options.loss == FitLoss::logits && options.steps > 0;
}

size_t bytes_of_streams(int64_t tokens, int64_t hidden, bool with_predictions) {
  return Arena::matrix_bytes(DType::f32, tokens, hidden) * (with_predictions ? 6 : 4);
}

}  // namespace

LayerFitter::LayerFitter(LayerwiseModel& model, std::span<const int32_t> token_ids, DType dtype,
                         const LayerFitOptions& options)
    : model_(model),
      token_ids_(token_ids.begin(), token_ids.end()),
      dtype_(dtype),
      options_(options),
      fitted_config_(with_one_expert(model.config(), options.width)),
      arena_(bytes_of_streams(static_cast<int64_t>(token_ids.size()), model.config().hidden_size,
                              needs_predictions(options))),
      candidates_(2 * Arena::matrix_bytes(DType::f32, num_candidates(model.config(), options.width),
                                          model.config().hidden_size)),
      scorer_(model.config(), model.stream(), false),
      relative_errors_(static_cast<size_t>(model.config().num_hidden_layers)),
      scores_(relative_errors_.size()) {
  const auto tokens = static_cast<int64_t>(token_ids_.size());
  const int64_t hidden = model.config().hidden_size;
  const auto take = [&] { return arena_.matrix(DType::f32, tokens, hidden); };
  original_ = take();
  student_ = take();
  inputs_ = take();
  targets_ = take();
  const int64_t candidates = num_candidates(model.config(), options.width);
  candidate_gates_ = candidates_.matrix(DType::f32, candidates, hidden);
  candidate_ups_ = candidates_.matrix(DType::f32, candidates, hidden);
  if (needs_predictions(options_)) {
    final_hidden_ = take();
    expected_heads_ = take();
    run_original();
  }
  model_.embed(token_ids_, original_);
  copy_rows(model_.stream(), original_, student_);
}

uint64_t LayerFitter::work(const io::ModelConfig& config, const LayerFitOptions& options) {
  const auto layers = static_cast<uint64_t>(config.num_hidden_layers);
  const uint64_t pass = needs_predictions(options) ? layers * kUnitsOfPass : 0;
  return pass + layers * (kUnitsOfLayer + static_cast<uint64_t>(options.steps));
}

void LayerFitter::done(uint64_t units) const {
  if (options_.on_work) options_.on_work(units);
}

// What the original model predicts, from its last layer's output.
void LayerFitter::run_original() {
  const io::ModelConfig& config = model_.config();
  const Stream& stream = model_.stream();
  model_.forward(token_ids_, final_hidden_, [this](int64_t /*layer*/) { done(kUnitsOfPass); });

  predictions_ = std::make_unique<Predictions>();
  const int64_t hidden = config.hidden_size;
  const int64_t vocab = config.vocab_size;
  predictions_->norm_memory = Buffer(static_cast<size_t>(hidden) * sizeof(float));
  const Tensor norm(predictions_->norm_memory.data(), DType::f32, 1, hidden, hidden);
  read_row(model_.checkpoint().at("model.norm.weight"), 0, hidden, norm.data<float>());
  {
    const io::TensorEntry& head =
        model_.checkpoint().at(config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
    Arena arena(Arena::matrix_bytes(DType::f32, vocab, hidden));
    const Tensor lm_head = arena.matrix(DType::f32, vocab, hidden);
    stream.pool().parallel(vocab, [&](int64_t v) { read_row(head, v, hidden, lm_head.row<float>(v)); });
    model_.checkpoint().check_read();
    pack_rhs(stream, {lm_head, true}, predictions_->by_vocab);
    pack_rhs(stream, {lm_head}, predictions_->by_hidden);
  }
  predictions_->target = {.final_hidden = final_hidden_,
                          .expected_heads = expected_heads_,
                          .norm = norm,
                          .rms_norm_eps = static_cast<float>(config.rms_norm_eps),
                          .vocab_size = vocab,
                          .lm_head_by_vocab = &predictions_->by_vocab,
                          .lm_head_by_hidden = &predictions_->by_hidden};

  const int64_t tokens = final_hidden_.rows();
  const int64_t at_once =
      std::clamp<int64_t>(kBytesOfLogits / (vocab * static_cast<int64_t>(sizeof(float))), 16, 2048);
  Arena arena(Arena::matrix_bytes(DType::f32, at_once, hidden) +
              Arena::matrix_bytes(DType::f32, at_once, vocab));
  const Tensor normed = arena.matrix(DType::f32, at_once, hidden);
  const Tensor logits = arena.matrix(DType::f32, at_once, vocab);
  for (int64_t first = 0; first < tokens; first += at_once) {
    const int64_t rows = std::min(at_once, tokens - first);
    rms_norm(stream, final_hidden_.middle_rows(first, rows), norm, static_cast<float>(config.rms_norm_eps),
             normed.first_rows(rows));
    gemm(stream, {normed.first_rows(rows)}, predictions_->by_vocab, logits.first_rows(rows),
         GemmMode::assign);
    softmax_rows(stream, logits.first_rows(rows));
    gemm(stream, {logits.first_rows(rows)}, predictions_->by_hidden, expected_heads_.middle_rows(first, rows),
         GemmMode::assign);
  }
}

// An error of an early layer is changed by the layers after it so much that its way along the residual stream
// says little; there the error of the output is as good, and costs less.
bool LayerFitter::weighs_predictions(int64_t layer) const {
  return predictions_ != nullptr && 2 * layer >= model_.config().num_hidden_layers;
}

MergedExpert LayerFitter::fit(int64_t layer) {
  CHORALE_CHECK(layer >= next_layer_ && model_.config().is_sparse_layer(layer), "layer {}", layer);
  while (next_layer_ < layer) pass_dense_layer(next_layer_++);
  ++next_layer_;
  return replace_layer(layer);
}

void LayerFitter::pass_dense_layer(int64_t layer) {
  const LoadedPart part = model_.load({.kind = model::ModelPart::Kind::layer, .layer = layer});
  for (const Tensor& residual : {original_, student_}) {
    model_.attend(part.layer(), residual);
    model_.feed_forward(model_.config(), part.layer(), residual);
  }
  done(kUnitsOfLayer + static_cast<uint64_t>(options_.steps));
}

MergedExpert LayerFitter::replace_layer(int64_t layer) {
  const io::ModelConfig& config = model_.config();
  const Stream& stream = model_.stream();
  const int64_t inner = config.moe_intermediate_size;
  const LoadedPart part = model_.load({.kind = model::ModelPart::Kind::layer, .layer = layer});
  model_.attend(part.layer(), original_);
  model_.attend(part.layer(), student_);

  // The energy of a neuron: the sum over its expert's tokens of (gate weight * activation)^2.
  std::vector<double> energy(static_cast<size_t>(config.num_experts * inner));
  scorer_.begin(part.layer());
  model_.feed_forward(config, part.layer(), original_, [&](const ExpertStep& step) {
    scorer_.observe(step);
    stream.pool().parallel(config.num_experts, [&](int64_t e) {
      const bool all = step.rows.all_tokens();
      const int64_t begin = all ? 0 : step.rows.offsets.data<int32_t>()[e];
      const int64_t end = all ? step.num_tokens : step.rows.offsets.data<int32_t>()[e + 1];
      for (int64_t r = begin; r < end; ++r) {
        const double gate = all ? 1.0 : double{step.rows.weights.data<float>()[r]};
        for (int64_t i = 0; i < inner; ++i) {
          const double value = gate * double{element(step.inner, r, i)};
          energy[static_cast<size_t>(e * inner + i)] += value * value;
        }
      }
    });
  });
  scores_[static_cast<size_t>(layer)] = scorer_.finish();
  choose_candidates(layer, energy);

  model_.normed(part.layer(), student_, inputs_);
  stream.pool().parallel(targets_.rows(), [&](int64_t t) {
    for (int64_t h = 0; h < config.hidden_size; ++h) {
      targets_.row<float>(t)[h] = original_.row<float>(t)[h] - student_.row<float>(t)[h];
    }
  });
  const FitProblem problem{.inputs = inputs_,
                           .targets = targets_,
                           .candidate_gates = candidate_gates_,
                           .candidate_ups = candidate_ups_,
                           .logits = weighs_predictions(layer) ? &predictions_->target : nullptr};
  const FittedExpert fitted = fit_expert(stream, problem,
                                         {.width = options_.width,
                                          .steps = options_.steps,
                                          .seed = options_.seed,
                                          .stream = static_cast<uint32_t>(layer),
                                          .on_step = [this] { done(1); }});
  relative_errors_[static_cast<size_t>(layer)] = fitted.relative_error;

  // Softmax over one logit is 1 whatever the router's row is.
  const std::vector<float> router(static_cast<size_t>(config.hidden_size));
  MergedExpert expert{
      encode(std::span<const float>(router), dtype_), encode(std::span<const float>(fitted.gate), dtype_),
      encode(std::span<const float>(fitted.up), dtype_), encode(std::span<const float>(fitted.down), dtype_)};
  advance_student(part.layer(), layer, expert);
  done(kUnitsOfLayer);
  return expert;
}

void LayerFitter::choose_candidates(int64_t layer, const std::vector<double>& energy) {
  const io::ModelConfig& config = model_.config();
  const int64_t inner = config.moe_intermediate_size;
  const int64_t hidden = config.hidden_size;
  const auto name = [&](int64_t expert, const char* matrix) {
    return fmt::format("model.layers.{}.mlp.experts.{}.{}.weight", layer, expert, matrix);
  };
  std::vector<int64_t> chosen(energy.size());
  std::iota(chosen.begin(), chosen.end(), 0);
  if (candidate_gates_.rows() < static_cast<int64_t>(chosen.size())) {
    // What a neuron adds to the output has the norm of its column of the down projection as a factor.
    std::vector<double> weight(energy.size());
    model_.stream().pool().parallel(config.num_experts, [&](int64_t e) {
      const io::TensorEntry& down = model_.checkpoint().at(name(e, "down_proj"));
      std::vector<float> row(static_cast<size_t>(inner));
      for (int64_t h = 0; h < hidden; ++h) {
        read_row(down, h, inner, row.data());
        for (int64_t i = 0; i < inner; ++i) {
          const double value = row[static_cast<size_t>(i)];
          weight[static_cast<size_t>(e * inner + i)] += value * value;
        }
      }
    });
    const auto score = [&](int64_t j) {
      return energy[static_cast<size_t>(j)] * weight[static_cast<size_t>(j)];
    };
    std::stable_sort(chosen.begin(), chosen.end(), [&](int64_t a, int64_t b) { return score(a) > score(b); });
    chosen.resize(static_cast<size_t>(candidate_gates_.rows()));
    std::sort(chosen.begin(), chosen.end());
  }
  model_.stream().pool().parallel(static_cast<int64_t>(chosen.size()), [&](int64_t c) {
    const int64_t neuron = chosen[static_cast<size_t>(c)];
    const int64_t e = neuron / inner;
    read_row(model_.checkpoint().at(name(e, "gate_proj")), neuron % inner, hidden,
             candidate_gates_.row<float>(c));
    read_row(model_.checkpoint().at(name(e, "up_proj")), neuron % inner, hidden,
             candidate_ups_.row<float>(c));
  });
  model_.checkpoint().check_read();
  for (int64_t e = 0; e < config.num_experts; ++e) {
    for (const char* matrix : {"gate_proj", "up_proj", "down_proj"}) {
      model_.checkpoint().release(model_.checkpoint().at(name(e, matrix)));
    }
  }
}

// With the weights as they are stored, so that the next layer sees what it will see when the model is served.
void LayerFitter::advance_student(const model::LayerWeights& original, int64_t layer,
                                  const MergedExpert& expert) {
  const model::ModelPart which{.kind = model::ModelPart::Kind::layer, .layer = layer};
  const model::WeightPlan plan = model::plan_part(fitted_config_, model_.dtype(), which);
  const Buffer memory(plan.bytes);
  const std::unique_ptr<WeightWriter> writer = make_weight_writer(memory, 1);
  for (const model::WeightPlace& place : plan.places) {
    if (place.name.find(".mlp.experts.0.") == std::string::npos) continue;
    const std::vector<std::byte>& bytes = place.name.ends_with("gate_proj.weight") ? expert.gate
                                          : place.name.ends_with("up_proj.weight") ? expert.up
                                                                                   : expert.down;
    const SourceMatrix source{bytes.data(), dtype_, place.shape[0], place.shape[1]};
    for (int64_t chunk = 0; chunk < place.layout.num_chunks(); ++chunk) {
      writer->write_chunk(source, place.layout, place.offset, chunk, place.half);
    }
  }
  model::ModelWeights weights = model::bind_part(fitted_config_, model_.dtype(), which, memory);
  weights.layers.front().post_attention_norm = original.post_attention_norm;
  model_.feed_forward(fitted_config_, weights.layers.front(), student_);
}

}  // namespace chorale::tools
