#include "kernels/ref/fitting.h"

#include <algorithm>
#include <cmath>

#include "kernels/ref/expert_matmul.h"

namespace chorale::ref {

Dense<double> gated_activation(const Matrix& gate, const Matrix& up) {
  Dense<double> out(gate.rows, gate.columns);
  for (size_t i = 0; i < out.values.size(); ++i)
    out.values[i] = silu(double{gate.values[i]}) * double{up.values[i]};
  return out;
}

GatedGradient gated_activation_backward(const Matrix& gate, const Matrix& up, const Matrix& d_out) {
  GatedGradient gradient{{gate.rows, gate.columns}, {gate.rows, gate.columns}};
  for (size_t i = 0; i < gate.values.size(); ++i) {
    const double g = double{gate.values[i]};
    const double sigmoid = 1 / (1 + std::exp(-g));
    const double d = double{d_out.values[i]};
    gradient.gate.values[i] = d * double{up.values[i]} * sigmoid * (1 + g * (1 - sigmoid));
    gradient.up.values[i] = d * silu(g);
  }
  return gradient;
}

Dense<double> softmax_rows(const Matrix& logits) {
  Dense<double> out(logits.rows, logits.columns);
  for (int64_t m = 0; m < logits.rows; ++m) {
    double maximum = double{logits.at(m, 0)};
    for (int64_t n = 0; n < logits.columns; ++n) maximum = std::max(maximum, double{logits.at(m, n)});
    double sum = 0;
    for (int64_t n = 0; n < logits.columns; ++n) sum += std::exp(double{logits.at(m, n)} - maximum);
    for (int64_t n = 0; n < logits.columns; ++n)
      out.at(m, n) = std::exp(double{logits.at(m, n)} - maximum) / sum;
  }
  return out;
}

Dense<double> rms_norm_backward(const Matrix& x, const Matrix& weight, float eps, const Matrix& d_out) {
  Dense<double> d_x(x.rows, x.columns);
  const auto columns = static_cast<double>(x.columns);
  for (int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (int64_t c = 0; c < x.columns; ++c) squares += double{x.at(t, c)} * double{x.at(t, c)};
    const double r = 1 / std::sqrt(squares / columns + double{eps});
    double mean = 0;
    for (int64_t c = 0; c < x.columns; ++c)
      mean += double{d_out.at(t, c)} * double{weight.at(0, c)} * double{x.at(t, c)} * r / columns;
    for (int64_t c = 0; c < x.columns; ++c)
      d_x.at(t, c) = r * (double{d_out.at(t, c)} * double{weight.at(0, c)} - double{x.at(t, c)} * r * mean);
  }
  return d_x;
}

void adam_step(AdamState& state, const Matrix& gradient, const AdamOptions& options) {
  const double beta1 = double{options.beta1};
  const double beta2 = double{options.beta2};
  const auto step = static_cast<double>(options.step);
  for (size_t i = 0; i < gradient.values.size(); ++i) {
    const double g = double{gradient.values[i]};
    double& m = state.first_moment.values[i];
    double& v = state.second_moment.values[i];
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    const double corrected = m / (1 - std::pow(beta1, step));
    const double root = std::sqrt(v / (1 - std::pow(beta2, step)));
    state.parameters.values[i] -=
        double{options.learning_rate} * corrected / (root + double{options.epsilon});
  }
}

}  // namespace chorale::ref
