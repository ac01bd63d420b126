// Reference of kernels/matmul.h.
#pragma once

#include "kernels/ref/dense.h"

namespace chorale::ref {

// x * weight^T (+ bias). x: [M, K]; weight: [N, K]; bias: [1, N] or empty.
Dense<double> matmul(const Matrix& x, const Matrix& weight, const Matrix& bias = {});

}  // namespace chorale::ref
