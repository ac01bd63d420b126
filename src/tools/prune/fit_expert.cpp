#include "tools/prune/fit_expert.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "kernels/adam.h"
#include "kernels/gated_activation.h"
#include "kernels/rms_norm_backward.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "tools/prune/normal_equations.h"

namespace chorale::tools {
namespace {

constexpr int64_t kTokensAtOnce = 8192;  // in a pass over all tokens
constexpr double kRidge = 1e-5;          // a part of the mean squared norm of the neurons' activations
constexpr int64_t kWarmupSteps = 20;
constexpr float kBeta1 = 0.9F;
constexpr float kBeta2 = 0.95F;  // a batch is large and a run short
constexpr int64_t kRowsPerTask = 64;

class Matrix {
 public:
  Matrix(int64_t rows, int64_t columns)
      : arena_(Arena::matrix_bytes(DType::f32, rows, columns)),
        tensor_(arena_.matrix(DType::f32, rows, columns)) {}
  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }

 private:
  Arena arena_;
  Tensor tensor_;
};

// run(row) for all rows, in parallel.
template <typename Run>
void for_each_row(const Stream& stream, int64_t rows, const Run& run) {
  stream.pool().parallel((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) run(r);
  });
}

// The sum over rows of value(row), in double precision and in the order of rows.
template <typename Value>
double sum_rows(const Stream& stream, int64_t rows, const Value& value) {
  std::vector<double> values(static_cast<size_t>(rows));
  for_each_row(stream, rows, [&](int64_t r) { values[static_cast<size_t>(r)] = value(r); });
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double squared_norm(const float* row, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{row[i]} * double{row[i]};
  return sum;
}

double squared_distance(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = double{a[i]} - double{b[i]};
    sum += d * d;
  }
  return sum;
}

// The forward pass of the gated MLP on some rows, with what its gradient needs.
struct Activations {
  Activations(int64_t rows, int64_t width) : gate(rows, width), up(rows, width), inner(rows, width) {}
  Matrix gate, up, inner;
};

// inner = silu(x gate^T) * (x up^T).
void activate(const Stream& stream, const Tensor& x, const Tensor& gate, const Tensor& up,
              const Activations& out, GemmScratch& scratch) {
  const int64_t rows = x.rows();
  gemm(stream, {x}, {gate, true}, out.gate.tensor().first_rows(rows), GemmMode::assign, scratch);
  gemm(stream, {x}, {up, true}, out.up.tensor().first_rows(rows), GemmMode::assign, scratch);
  gated_activation(stream, out.gate.tensor().first_rows(rows), out.up.tensor().first_rows(rows),
                   out.inner.tensor().first_rows(rows));
}

// The normal equations of the target over the activations of these neurons, over all tokens.
NormalEquations measure(const Stream& stream, const FitProblem& problem, const Tensor& gates,
                        const Tensor& ups, GemmScratch& scratch) {
  const int64_t width = gates.rows();
  const int64_t hidden = problem.targets.columns();
  const int64_t tokens = problem.inputs.rows();
  NormalEquations equations(width, hidden);
  const int64_t at_once = std::min(kTokensAtOnce, tokens);
  const Activations activations(at_once, width);
  const Matrix gram(width, width);
  const Matrix cross(width, hidden);
  // Float32 for the products of some tokens, double precision for their sums.
  const auto add = [&](const Tensor& part, std::vector<double>& total) {
    for_each_row(stream, part.rows(), [&](int64_t r) {
      const float* from = part.row<float>(r);
      double* to = total.data() + r * part.columns();
      for (int64_t i = 0; i < part.columns(); ++i) to[i] += double{from[i]};
    });
  };
  for (int64_t first = 0; first < tokens; first += at_once) {
    const int64_t rows = std::min(at_once, tokens - first);
    activate(stream, problem.inputs.middle_rows(first, rows), gates, ups, activations, scratch);
    const Tensor inner = activations.inner.tensor().first_rows(rows);
    gemm(stream, {inner, true}, {inner}, gram, GemmMode::assign, scratch);
    gemm(stream, {inner, true}, {problem.targets.middle_rows(first, rows)}, cross, GemmMode::assign, scratch);
    add(gram, equations.gram);
    add(cross, equations.cross);
  }
  return equations;
}

// A permutation of all tokens, dealt out in batches; a new one when too few are left.
class Batches {
 public:
  Batches(int64_t tokens, int64_t batch, const FitOptions& options)
      : order_(static_cast<size_t>(tokens)), next_(order_.size()), batch_(batch), options_(options) {
    std::iota(order_.begin(), order_.end(), 0);
  }

  // int32 [1, batch]; valid until the next call.
  Tensor next() {
    if (next_ + static_cast<size_t>(batch_) > order_.size()) shuffle();
    const Tensor rows(order_.data() + next_, DType::i32, 1, batch_, batch_);
    next_ += static_cast<size_t>(batch_);
    return rows;
  }

 private:
  void shuffle() {
    for (size_t i = order_.size(); i > 1; --i) {
      const auto j = static_cast<size_t>(random_uniform(options_.seed, options_.stream, draws_++) *
                                         static_cast<double>(i));
      std::swap(order_[i - 1], order_[std::min(j, i - 1)]);
    }
    next_ = 0;
  }

  std::vector<int32_t> order_;
  size_t next_;
  int64_t batch_;
  const FitOptions& options_;
  uint64_t draws_ = 0;
};

// A weight matrix with Adam's state.
struct Parameter {
  Parameter(int64_t rows, int64_t columns)
      : value(rows, columns),
        gradient(rows, columns),
        first_moment(rows, columns),
        second_moment(rows, columns) {}
  void update(const Stream& stream, const AdamOptions& options) const {
    adam_step(stream, value, gradient, first_moment, second_moment, options);
  }
  Matrix value, gradient, first_moment, second_moment;
};

struct Expert {
  Expert(int64_t width, int64_t hidden) : gate(width, hidden), up(width, hidden), down(hidden, width) {}
  Parameter gate, up, down;
};

void set_down(const std::vector<double>& weights, const Tensor& down) {
  for (int64_t w = 0; w < down.columns(); ++w) {
    for (int64_t h = 0; h < down.rows(); ++h) {
      down.row<float>(h)[w] = static_cast<float>(weights[static_cast<size_t>(w * down.rows() + h)]);
    }
  }
}

// Step 1: neurons and a first down projection.
void choose_neurons(const Stream& stream, const FitProblem& problem, const FitOptions& options,
                    Expert& expert, GemmScratch& scratch) {
  const NormalEquations all =
      measure(stream, problem, problem.candidate_gates, problem.candidate_ups, scratch);
  std::vector<int32_t> chosen = select_features(all, options.width, kRidge);
  const Tensor rows(chosen.data(), DType::i32, 1, options.width, options.width);
  gather_rows(stream, rows, problem.candidate_gates, expert.gate.value);
  gather_rows(stream, rows, problem.candidate_ups, expert.up.value);
  set_down(solve_ridge(restrict_to(all, chosen), kRidge), expert.down.value);
}

// Step 2.
class Distillation {
 public:
  Distillation(const Stream& stream, const FitProblem& problem, const FitOptions& options, Expert& expert,
               GemmScratch& scratch)
      : stream_(stream),
        problem_(problem),
        options_(options),
        expert_(expert),
        scratch_(scratch),
        tokens_(problem.inputs.rows()),
        hidden_(problem.inputs.columns()),
        batch_(std::min(options.batch_tokens, tokens_)),
        predicted_(problem.logits == nullptr ? 0 : predicted_tokens()),
        batches_(tokens_, batch_, options),
        x_(batch_, hidden_),
        target_(batch_, hidden_),
        output_(batch_, hidden_),
        activations_(batch_, options.width),
        d_inner_(batch_, options.width),
        final_hidden_(predicted_, hidden_),
        final_normed_(predicted_, hidden_),
        expected_(predicted_, hidden_),
        logits_(predicted_, problem.logits == nullptr ? 0 : problem.logits->vocab_size) {
    const double squares = sum_rows(
        stream, tokens_, [&](int64_t t) { return squared_norm(problem.targets.row<float>(t), hidden_); });
    // A layer that adds nothing is fitted by nothing; any scale will do.
    scale_ = squares > 0 ? static_cast<float>(2 * static_cast<double>(tokens_) / squares) : 1.0F;
  }

  void run() {
    for (int64_t step = 1; step <= options_.steps; ++step) {
      const Tensor rows = batches_.next();
      gather_rows(stream_, rows, problem_.inputs, x_);
      gather_rows(stream_, rows, problem_.targets, target_);
      activate(stream_, x_, expert_.gate.value, expert_.up.value, activations_, scratch_);
      gemm(stream_, {activations_.inner}, {expert_.down.value, true}, output_, GemmMode::assign, scratch_);
      if (predicted_ > 0) predict(rows.first_columns(predicted_));
      output_gradient();
      backward();
      update(step);
      if (options_.on_step) options_.on_step();
    }
  }

 private:
  // As many tokens of a batch as cost the same arithmetic as the batch's own products.
  int64_t predicted_tokens() const {
    const int64_t vocab = problem_.logits->vocab_size;
    return std::clamp<int64_t>(batch_ * 3 * options_.width / std::max<int64_t>(vocab, 1), 1, batch_);
  }

  // final_normed = the gradient of the divergence with respect to the output, for the batch's first tokens.
  void predict(const Tensor& rows) {
    const LogitsTarget& logits = *problem_.logits;
    gather_rows(stream_, rows, logits.final_hidden, final_hidden_);
    gather_rows(stream_, rows, logits.expected_heads, expected_);
    for_each_row(stream_, predicted_, [&](int64_t r) {
      float* h = final_hidden_.tensor().row<float>(r);
      const float* y = output_.tensor().row<float>(r);
      const float* t = target_.tensor().row<float>(r);
      for (int64_t i = 0; i < hidden_; ++i) h[i] += y[i] - t[i];
    });
    rms_norm(stream_, final_hidden_, logits.norm, logits.rms_norm_eps, final_normed_);
    gemm(stream_, {final_normed_}, *logits.lm_head_by_vocab, logits_, GemmMode::assign);
    softmax_rows(stream_, logits_);
    gemm(stream_, {logits_}, *logits.lm_head_by_hidden, final_normed_, GemmMode::assign);
    for_each_row(stream_, predicted_, [&](int64_t r) {
      float* d = final_normed_.tensor().row<float>(r);
      const float* expected = expected_.tensor().row<float>(r);
      for (int64_t i = 0; i < hidden_; ++i) d[i] -= expected[i];
    });
    rms_norm_backward(stream_, final_hidden_, logits.norm, logits.rms_norm_eps, final_normed_, final_normed_);
  }

  // output = the gradient of the loss with respect to the output.
  void output_gradient() {
    const float scale = scale_ / static_cast<float>(batch_);
    const float per_predicted = predicted_ > 0 ? 1.0F / static_cast<float>(predicted_) : 0.0F;
    for_each_row(stream_, batch_, [&](int64_t r) {
      float* y = output_.tensor().row<float>(r);
      const float* t = target_.tensor().row<float>(r);
      for (int64_t i = 0; i < hidden_; ++i) y[i] = (y[i] - t[i]) * scale;
      if (r >= predicted_) return;
      const float* d = final_normed_.tensor().row<float>(r);
      for (int64_t i = 0; i < hidden_; ++i) y[i] += d[i] * per_predicted;
    });
  }

  // With dY the gradient of the output: d_down = dY^T inner, d_inner = dY down, and through the gate
  // d_gate = d(gate)^T X, d_up = d(up)^T X.
  void backward() {
    gemm(stream_, {output_, true}, {activations_.inner}, expert_.down.gradient, GemmMode::assign, scratch_);
    gemm(stream_, {output_}, {expert_.down.value}, d_inner_, GemmMode::assign, scratch_);
    gated_activation_backward(stream_, activations_.gate, activations_.up, d_inner_, activations_.gate,
                              activations_.up);
    pack_rhs(stream_, {x_}, packed_x_);
    gemm(stream_, {activations_.gate, true}, packed_x_, expert_.gate.gradient, GemmMode::assign);
    gemm(stream_, {activations_.up, true}, packed_x_, expert_.up.gradient, GemmMode::assign);
  }

  void update(int64_t step) const {
    const double progress = static_cast<double>(step - 1) / static_cast<double>(options_.steps);
    const double warmup = std::min(1.0, static_cast<double>(step) / kWarmupSteps);
    const double rate =
        double{options_.learning_rate} * warmup * 0.5 * (1 + std::cos(std::numbers::pi * progress));
    const AdamOptions adam{.learning_rate = static_cast<float>(rate),
                           .beta1 = kBeta1,
                           .beta2 = kBeta2,
                           .epsilon = 1e-8F,
                           .step = step};
    expert_.gate.update(stream_, adam);
    expert_.up.update(stream_, adam);
    expert_.down.update(stream_, adam);
  }

  const Stream& stream_;
  const FitProblem& problem_;
  const FitOptions& options_;
  Expert& expert_;
  GemmScratch& scratch_;
  int64_t tokens_, hidden_, batch_;
  int64_t predicted_;  // tokens of a batch whose predictions count; 0: the loss is on the output alone
  Batches batches_;
  Matrix x_, target_, output_;
  Activations activations_;
  Matrix d_inner_;
  PackedRhs packed_x_;
  Matrix final_hidden_, final_normed_, expected_, logits_;
  float scale_ = 1;  // 2 / mean squared norm of the target's rows
};

double relative_error(const Stream& stream, const FitProblem& problem, const Expert& expert,
                      GemmScratch& scratch) {
  const int64_t tokens = problem.inputs.rows();
  const int64_t hidden = problem.inputs.columns();
  const int64_t at_once = std::min(kTokensAtOnce, tokens);
  const Activations activations(at_once, expert.gate.value.tensor().rows());
  const Matrix output(at_once, hidden);
  double error = 0;
  double total = 0;
  for (int64_t first = 0; first < tokens; first += at_once) {
    const int64_t rows = std::min(at_once, tokens - first);
    const Tensor targets = problem.targets.middle_rows(first, rows);
    activate(stream, problem.inputs.middle_rows(first, rows), expert.gate.value, expert.up.value, activations,
             scratch);
    const Tensor y = output.tensor().first_rows(rows);
    gemm(stream, {activations.inner.tensor().first_rows(rows)}, {expert.down.value, true}, y,
         GemmMode::assign, scratch);
    error += sum_rows(stream, rows, [&](int64_t r) {
      return squared_distance(y.row<float>(r), targets.row<float>(r), hidden);
    });
    total += sum_rows(stream, rows, [&](int64_t r) { return squared_norm(targets.row<float>(r), hidden); });
  }
  return total > 0 ? error / total : 0.0;
}

std::vector<float> values_of(const Tensor& matrix) {
  std::vector<float> values;
  values.reserve(static_cast<size_t>(matrix.size()));
  for (int64_t r = 0; r < matrix.rows(); ++r) {
    values.insert(values.end(), matrix.row<float>(r), matrix.row<float>(r) + matrix.columns());
  }
  return values;
}

}  // namespace

FittedExpert fit_expert(const Stream& stream, const FitProblem& problem, const FitOptions& options) {
  CHORALE_CHECK(options.width >= 1 && options.width <= problem.candidate_gates.rows(), "{} of {} neurons",
                options.width, problem.candidate_gates.rows());
  CHORALE_CHECK(options.steps >= 0 && options.batch_tokens >= 1 && problem.inputs.rows() >= 1);
  GemmScratch scratch;
  Expert expert(options.width, problem.inputs.columns());
  choose_neurons(stream, problem, options, expert, scratch);
  if (options.steps > 0) {
    Distillation(stream, problem, options, expert, scratch).run();
    if (problem.logits == nullptr) {  // the closed form knows the output alone
      const NormalEquations equations = measure(stream, problem, expert.gate.value, expert.up.value, scratch);
      set_down(solve_ridge(equations, kRidge), expert.down.value);
    }
  }
  FittedExpert fitted{values_of(expert.gate.value), values_of(expert.up.value), values_of(expert.down.value),
                      relative_error(stream, problem, expert, scratch)};
  if (!std::isfinite(fitted.relative_error)) throw_error("the fit has become NaN or infinite");
  return fitted;
}

}  // namespace chorale::tools
