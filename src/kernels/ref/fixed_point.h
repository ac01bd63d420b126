// Reference of kernels/fixed_point.h.
#pragma once

#include "kernels/ref/dense.h"

namespace chorale::ref {

// A finite value clamped to +-2^18, in units of 2^-36, rounded to nearest even.
int64_t to_fixed(float value);

// The value of a sum, rounded once to float32.
float from_fixed(int64_t sum);

// residual += from_fixed(sums) (+ bias), in float32; a row whose last sum is not zero becomes NaN. sums: [T,
// N + 1]; bias: [1, N] or empty; residual: [T, N].
void add_sums(const Dense<int64_t>& sums, const Matrix& bias, Matrix& residual);

}  // namespace chorale::ref
