// Reference of kernels/rows.h.
#pragma once

#include <span>

#include "kernels/ref/dense.h"

namespace chorale::ref {

// out[m] = x[rows[m]]. Both embed and gather_rows.
Matrix gather_rows(std::span<const int32_t> rows, const Matrix& x);

// x / sqrt(mean(x^2) + eps) * weight. x: [T, H]; weight: [1, H].
Dense<double> rms_norm(const Matrix& x, const Matrix& weight, float eps);

}  // namespace chorale::ref
