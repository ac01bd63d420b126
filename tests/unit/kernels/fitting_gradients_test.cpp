// The gradients for fitting weights are difference quotients of the functions that they are the gradients of,
// whatever the references say.
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "kernels/gated_activation.h"
#include "kernels/rms_norm_backward.h"

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

class FittingGradients : public testing::TestWithParam<InstructionSet> {
 protected:
  std::mt19937 random_{17};
  ThreadPool one_{1}, three_{3};
  std::vector<Stream> streams() { return {Stream(one_, GetParam()), Stream(three_, GetParam())}; }
};

INSTANTIATE_TEST_SUITE_P(InstructionSets, FittingGradients, testing::ValuesIn(available_instruction_sets()),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(FittingGradients, GatedActivationAndItsGradient) {
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

TEST_P(FittingGradients, RmsNormBackwardIsTheDifferenceQuotient) {
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

}  // namespace
}  // namespace chorale
