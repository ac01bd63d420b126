// The elementwise and row ops for fitting weights against their references, in place and not, with 1, 2 and 3
// threads.
#include "kernels/gated_activation.h"
#include "kernels/ref/fitting.h"
#include "kernels/rms_norm_backward.h"
#include "kernels/softmax.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

class FittingReferenceTest : public testing::TestWithParam<InstructionSet> {
 protected:
  std::array<Stream, 3> three_streams() {
    return {Stream(one_, GetParam()), Stream(two_, GetParam()), Stream(three_, GetParam())};
  }
  Random random_{1};
  ref::Matrix random(int64_t rows, int64_t columns, float deviation = 1) {
    return random_matrix(random_, rows, columns, DType::f32, deviation);
  }

 private:
  ThreadPool one_{1}, two_{2}, three_{3};
};
INSTANTIATE_TEST_SUITE_P(All, FittingReferenceTest, testing::ValuesIn(available_instruction_sets()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

struct Shape {
  int64_t rows, columns;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 15}, {5, 16}, {600, 33}, {2, 5000}, {40, 700}};

ref::Dense<double> scaled(ref::Dense<double> values, double factor, double floor) {
  for (double& value : values.values) value = std::fabs(value) * factor + floor;
  return values;
}

// exp's error and a rounding each of 1 + e, the quotient and two products; the slope's second term is at most
// as large as 1.1 and is rounded four times more, so that where the two terms cancel the error stays that
// of 1.1.
constexpr double kGatedError = kExpError + 10 * kFloatRoundoff;

TEST_P(FittingReferenceTest, GatedActivationAndItsGradient) {
  for (const Shape& s : kShapes) {
    const ref::Matrix gate = random(s.rows, s.columns, 4), up = random(s.rows, s.columns);
    const ref::Matrix d_out = random(s.rows, s.columns);
    const ref::Dense<double> out = ref::gated_activation(gate, up);
    const ref::GatedGradient gradient = ref::gated_activation_backward(gate, up, d_out);
    ref::Dense<double> gate_tolerance = gradient.gate;
    for (size_t i = 0; i < gate_tolerance.values.size(); ++i)
      gate_tolerance.values[i] =
          1.1 * kGatedError * std::fabs(double{d_out.values[i]} * double{up.values[i]});
    for (const Stream& stream : three_streams()) {
      const TestTensor g(DType::f32, gate), u(DType::f32, up), d(DType::f32, d_out);
      const TestTensor result(DType::f32, s.rows, s.columns);
      gated_activation(stream, g, u, result);
      expect_within(result.values(), out, scaled(out, kGatedError, 0x1p-126));
      const TestTensor d_gate(DType::f32, s.rows, s.columns), d_up(DType::f32, s.rows, s.columns);
      gated_activation_backward(stream, g, u, d, d_gate, d_up);
      expect_within(d_gate.values(), gradient.gate, gate_tolerance);
      expect_within(d_up.values(), gradient.up, scaled(gradient.up, kGatedError, 0x1p-126));
      const TestTensor in_place(DType::f32, gate);
      gated_activation(stream, in_place, u, in_place);
      expect_same_bits(in_place, result);
      gated_activation_backward(stream, g, u, d, g, u);
      expect_same_bits(g, d_gate);
      expect_same_bits(u, d_up);
    }
  }
}

// Differences of the logits are rounded once, which e^ magnifies by their size; the sum runs over 16 lanes.
TEST_P(FittingReferenceTest, SoftmaxOfRows) {
  for (const Shape& s : kShapes) {
    ref::Matrix logits = random(s.rows, s.columns, 10);
    for (int64_t c = 0; c < s.columns; ++c) logits.at(0, c) -= 1000;  // no lane beyond the row counts as 0
    const ref::Dense<double> expected = ref::softmax_rows(logits);
    const double error = 2 * kExpError + kFloatRoundoff * (100 + static_cast<double>(s.columns) / 16 + 8) +
                         1000 * kFloatRoundoff;
    const TestTensor first(DType::f32, logits);
    softmax_rows(three_streams()[0], first);
    expect_within(first.values(), expected, scaled(expected, error, 0x1p-120));
    for (const Stream& stream : three_streams()) {
      const TestTensor again(DType::f32, logits);
      softmax_rows(stream, again);
      expect_same_bits(again, first);
    }
  }
}

TEST_P(FittingReferenceTest, SoftmaxOfANanIsNanInItsRowAlone) {
  ref::Matrix logits = random(3, 40);
  logits.at(1, 20) = std::nanf("");
  const TestTensor tensor(DType::f32, logits);
  softmax_rows(three_streams()[2], tensor);
  const ref::Matrix result = tensor.values();
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 40; ++c) EXPECT_EQ(std::isnan(result.at(r, c)), r == 1);
}

TEST_P(FittingReferenceTest, RmsNormBackward) {
  for (const Shape& s : kShapes) {
    const ref::Matrix x = random(s.rows, s.columns), weight = random(1, s.columns);
    const ref::Matrix d_out = random(s.rows, s.columns);
    const ref::Dense<double> expected = ref::rms_norm_backward(x, weight, 1e-5F, d_out);
    // Every term is at most the largest product of the row times 1 / rms.
    ref::Dense<double> tolerance = expected;
    for (int64_t r = 0; r < s.rows; ++r) {
      double squares = 0, largest = 0, x_largest = 0;
      for (int64_t c = 0; c < s.columns; ++c) {
        squares += double{x.at(r, c)} * double{x.at(r, c)};
        x_largest = std::max(x_largest, std::fabs(double{x.at(r, c)}));
        largest = std::max(largest, std::fabs(double{d_out.at(r, c)} * double{weight.at(0, c)}));
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(s.columns) + 1e-5);
      const double z = x_largest * scale;
      for (int64_t c = 0; c < s.columns; ++c)
        tolerance.at(r, c) =
            scale * largest * (1 + z * z) * kFloatRoundoff * (static_cast<double>(s.columns) / 16 + 24);
    }
    const TestTensor input(DType::f32, x), weights(DType::f32, weight);
    const TestTensor first(DType::f32, s.rows, s.columns);
    rms_norm_backward(three_streams()[0], input, weights, 1e-5F, TestTensor(DType::f32, d_out), first);
    expect_within(first.values(), expected, tolerance);
    for (const Stream& stream : three_streams()) {
      const TestTensor in_place(DType::f32, d_out);
      rms_norm_backward(stream, input, weights, 1e-5F, in_place, in_place);
      expect_same_bits(in_place, first);
      const TestTensor over_x(DType::f32, x);
      rms_norm_backward(stream, over_x, weights, 1e-5F, TestTensor(DType::f32, d_out), over_x);
      expect_same_bits(over_x, first);
    }
  }
}

TEST_P(FittingReferenceTest, AdamSteps) {
  for (const Shape& s : kShapes) {
    const ref::Matrix start = random(s.rows, s.columns);
    std::vector<TestTensor> results;
    std::vector<ref::Matrix> gradients;
    for (int step = 0; step < 3; ++step) gradients.push_back(random(s.rows, s.columns, 0.01F));
    ref::AdamState state{{s.rows, s.columns}, {s.rows, s.columns}, {s.rows, s.columns}};
    std::copy(start.values.begin(), start.values.end(), state.parameters.values.begin());
    for (const Stream& stream : three_streams()) {
      results.emplace_back(DType::f32, start);
      const TestTensor m(DType::f32, ref::Matrix(s.rows, s.columns)),
          v(DType::f32, ref::Matrix(s.rows, s.columns));
      for (int64_t step = 1; step <= 3; ++step) {
        const AdamOptions options{.learning_rate = 0.01F, .step = step};
        const ref::Matrix& gradient = gradients[static_cast<size_t>(step - 1)];
        adam_step(stream, results.back(), TestTensor(DType::f32, gradient), m, v, options);
        if (results.size() == 1) ref::adam_step(state, gradient, options);
      }
      expect_same_bits(results.back(), results.front());
    }
    // A step is about the learning rate, and its roundings are some of its own; a parameter is rounded
    // thrice. Moments that nearly cancel are off by roundings of the gradients, a share of the step.
    expect_within(results.front().values(), state.parameters,
                  scaled(state.parameters, 3 * kFloatRoundoff, 3 * 0.01 * 20 * kFloatRoundoff));
  }
}

}  // namespace
}  // namespace chorale
