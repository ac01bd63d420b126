// References of the elementwise and row ops for fitting weights: kernels/gated_activation.h, softmax.h,
// rms_norm_backward.h and adam.h.
#pragma once

#include "kernels/adam.h"
#include "kernels/ref/dense.h"

namespace chorale::ref {

Dense<double> gated_activation(const Matrix& gate, const Matrix& up);

struct GatedGradient {
  Dense<double> gate, up;
};
GatedGradient gated_activation_backward(const Matrix& gate, const Matrix& up, const Matrix& d_out);

Dense<double> softmax_rows(const Matrix& logits);

Dense<double> rms_norm_backward(const Matrix& x, const Matrix& weight, float eps, const Matrix& d_out);

struct AdamState {
  Dense<double> parameters, first_moment, second_moment;
};
void adam_step(AdamState& state, const Matrix& gradient, const AdamOptions& options);

}  // namespace chorale::ref
