// The ops for fitting weights against double precision, over ragged shapes, with 1 and 3 threads.
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "kernels/adam.h"
#include "kernels/gated_activation.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm_backward.h"
#include "kernels/softmax.h"

namespace chorale {
namespace {

// A matrix whose rows lie apart by more than their length, with NaN in between.
struct Padded {
  Padded(int64_t rows, int64_t columns, std::mt19937& random)
      : values(static_cast<size_t>(rows * (columns + 3)), std::nanf("")),
        tensor(values.data(), DType::f32, rows, columns, columns + 3) {
    std::normal_distribution<float> normal;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) tensor.row<float>(r)[c] = normal(random);
  }
  std::vector<float> values;
  Tensor tensor;
};

double at(const Tensor& t, int64_t r, int64_t c) {
  return t.row<float>(r)[c];
}

double silu(double x) {
  return x / (1 + std::exp(-x));
}

class FittingOps : public testing::TestWithParam<InstructionSet> {
 protected:
  std::mt19937 random_{17};
  ThreadPool one_{1}, three_{3};
  std::vector<Stream> streams() { return {Stream(one_, GetParam()), Stream(three_, GetParam())}; }
};

INSTANTIATE_TEST_SUITE_P(InstructionSets, FittingOps, testing::ValuesIn(available_instruction_sets()),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(FittingOps, GemmIsTheProductOfItsOperandsInEveryOrientation) {
  struct Shape {
    int64_t m, n, k;
  };
  GemmScratch scratch;
  for (const Shape s : {Shape{1, 1, 1}, {5, 17, 3}, {37, 65, 515}, {130, 33, 1030}, {16, 64, 512}}) {
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const Padded a(a_transposed ? s.k : s.m, a_transposed ? s.m : s.k, random_);
        const Padded b(b_transposed ? s.n : s.k, b_transposed ? s.k : s.n, random_);
        const Padded before(s.m, s.n, random_);
        std::vector<std::vector<float>> results;
        for (const Stream& stream : streams()) {
          Padded c = before;
          c.tensor = Tensor(c.values.data(), DType::f32, s.m, s.n, s.n + 3);
          gemm(stream, {a.tensor, a_transposed}, {b.tensor, b_transposed}, c.tensor, GemmMode::accumulate,
               scratch);
          std::vector<float> flat;
          for (int64_t m = 0; m < s.m; ++m) {
            for (int64_t n = 0; n < s.n; ++n) {
              double sum = at(before.tensor, m, n);
              double size = std::abs(sum);
              for (int64_t k = 0; k < s.k; ++k) {
                const double product = (a_transposed ? at(a.tensor, k, m) : at(a.tensor, m, k)) *
                                       (b_transposed ? at(b.tensor, n, k) : at(b.tensor, k, n));
                sum += product;
                size += std::abs(product);
              }
              // Each of the k additions is off by at most a rounding of the partial sum.
              EXPECT_NEAR(at(c.tensor, m, n), sum, 0x1p-24 * size * static_cast<double>(s.k + 2));
              flat.push_back(c.tensor.row<float>(m)[n]);
            }
          }
          // Assigning does not read what was there, and a packed operand gives the same bits.
          Padded fresh(s.m, s.n, random_);
          for (float& value : fresh.values) value = std::nanf("");
          PackedRhs packed;
          pack_rhs(stream, {b.tensor, b_transposed}, packed);
          gemm(stream, {a.tensor, a_transposed}, packed, fresh.tensor, GemmMode::assign);
          Padded again(s.m, s.n, random_);
          gemm(stream, {a.tensor, a_transposed}, {b.tensor, b_transposed}, again.tensor, GemmMode::assign,
               scratch);
          for (int64_t m = 0; m < s.m; ++m)
            for (int64_t n = 0; n < s.n; ++n) EXPECT_EQ(at(fresh.tensor, m, n), at(again.tensor, m, n));
          results.push_back(flat);
        }
        EXPECT_EQ(results[0], results[1]) << "the number of threads changes the result";
      }
    }
  }
}

TEST_P(FittingOps, GatedActivationAndItsGradient) {
  const Padded gate(23, 37, random_), up(23, 37, random_), d_out(23, 37, random_);
  for (const Stream& stream : streams()) {
    Padded out(23, 37, random_), d_gate(23, 37, random_), d_up(23, 37, random_);
    gated_activation(stream, gate.tensor, up.tensor, out.tensor);
    gated_activation_backward(stream, gate.tensor, up.tensor, d_out.tensor, d_gate.tensor, d_up.tensor);
    for (int64_t r = 0; r < 23; ++r) {
      for (int64_t c = 0; c < 37; ++c) {
        const double g = at(gate.tensor, r, c), u = at(up.tensor, r, c), d = at(d_out.tensor, r, c);
        EXPECT_NEAR(at(out.tensor, r, c), silu(g) * u, 2e-6 * (1 + std::abs(silu(g) * u)));
        const double h = 1e-5;  // central difference in double precision: off by about h^2
        EXPECT_NEAR(at(d_gate.tensor, r, c), d * u * (silu(g + h) - silu(g - h)) / (2 * h),
                    4e-6 * (1 + std::abs(d * u)));
        EXPECT_NEAR(at(d_up.tensor, r, c), d * silu(g), 2e-6 * (1 + std::abs(d * silu(g))));
      }
    }
  }
}

TEST_P(FittingOps, SoftmaxOfRows) {
  for (const int64_t n : {1, 5, 16, 33, 4097}) {
    for (const Stream& stream : streams()) {
      Padded logits(7, n, random_);
      logits.tensor.row<float>(3)[0] = 90;  // e^90 alone would overflow float32
      std::vector<double> expected;
      for (int64_t r = 0; r < 7; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < n; ++c) sum += std::exp(at(logits.tensor, r, c));
        for (int64_t c = 0; c < n; ++c) expected.push_back(std::exp(at(logits.tensor, r, c)) / sum);
      }
      softmax_rows(stream, logits.tensor);
      for (int64_t i = 0; i < 7 * n; ++i)
        EXPECT_NEAR(at(logits.tensor, i / n, i % n), expected[static_cast<size_t>(i)], 2e-6);
    }
  }
}

TEST_P(FittingOps, RmsNormBackwardIsTheDifferenceQuotient) {
  const int64_t hidden = 37;
  const double eps = 1e-5;
  const Padded x(9, hidden, random_), weight(1, hidden, random_), d_out(9, hidden, random_);
  const auto loss = [&](int64_t r, int64_t moved, double by) {
    double squares = 0, sum = 0;
    const auto value = [&](int64_t c) { return at(x.tensor, r, c) + (c == moved ? by : 0); };
    for (int64_t c = 0; c < hidden; ++c) squares += value(c) * value(c);
    const double scale = 1 / std::sqrt(squares / hidden + eps);
    for (int64_t c = 0; c < hidden; ++c)
      sum += value(c) * scale * at(weight.tensor, 0, c) * at(d_out.tensor, r, c);
    return sum;
  };
  for (const Stream& stream : streams()) {
    Padded d_x(9, hidden, random_);
    rms_norm_backward(stream, x.tensor, weight.tensor, static_cast<float>(eps), d_out.tensor, d_x.tensor);
    for (int64_t r = 0; r < 9; ++r)
      for (int64_t c = 0; c < hidden; ++c)
        EXPECT_NEAR(at(d_x.tensor, r, c), (loss(r, c, 1e-5) - loss(r, c, -1e-5)) / 2e-5, 1e-5);
  }
}

TEST_P(FittingOps, AdamFollowsItsFormula) {
  for (const Stream& stream : streams()) {
    Padded parameters(5, 37, random_), gradient(5, 37, random_), m(5, 37, random_), v(5, 37, random_);
    std::vector<double> p(5 * 37), first(5 * 37, 0.0), second(5 * 37, 0.0);
    for (int64_t i = 0; i < 5 * 37; ++i) {
      p[static_cast<size_t>(i)] = at(parameters.tensor, i / 37, i % 37);
      m.tensor.row<float>(i / 37)[i % 37] = v.tensor.row<float>(i / 37)[i % 37] = 0;
    }
    for (int64_t step = 1; step <= 3; ++step) {
      adam_step(stream, parameters.tensor, gradient.tensor, m.tensor, v.tensor,
                {.learning_rate = 0.01F, .beta1 = 0.9F, .beta2 = 0.95F, .epsilon = 1e-8F, .step = step});
      for (size_t i = 0; i < p.size(); ++i) {
        const double g = at(gradient.tensor, static_cast<int64_t>(i) / 37, static_cast<int64_t>(i) % 37);
        first[i] = 0.9 * first[i] + 0.1 * g;
        second[i] = 0.95 * second[i] + 0.05 * g * g;
        const auto n = static_cast<double>(step);
        p[i] -= 0.01 * first[i] / (1 - std::pow(0.9, n)) /
                (std::sqrt(second[i] / (1 - std::pow(0.95, n))) + 1e-8);
      }
    }
    for (size_t i = 0; i < p.size(); ++i)
      EXPECT_NEAR(at(parameters.tensor, static_cast<int64_t>(i) / 37, static_cast<int64_t>(i) % 37), p[i],
                  2e-6);
  }
}

}  // namespace
}  // namespace chorale
