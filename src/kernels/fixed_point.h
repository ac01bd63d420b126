// Order-free sums: 64-bit fixed point with least bit 2^-36.
//
// A float32 partial sum is clamped to +-2^18 and rounded once, to nearest even; everything after that is
// integer addition, which is exact, so that any order, grouping, placement or number of ranks gives the same
// bits. 511 saturated terms fit before the integer could wrap; sums of a trained model stay many orders
// below.
//
// A sums tensor is int64 [T, N + 1]. Column N counts the token's partial sums that were NaN or infinite: they
// add nothing to the other columns, and make the token's whole row NaN when it is converted back. A count
// adds up like the rest, so a NaN on one rank is seen by all.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// sums = 0. sums: int64 [T, N + 1].
void clear_sums(const Stream& stream, const Tensor& sums);

// residual[T, N] += float32(sums * 2^-36) (+ bias[N]): the sum is rounded once, then added. bias: float32 [1,
// N], or empty.
void add_sums(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual);

// add_sums, then out = rms_norm(residual) by `weight`. What the sums hold afterwards is not defined.
// residual: float32 [T, N]; out: activations [T, N].
struct NormWeight {
  Tensor weight;  // float32 [1, N]
  float eps = 0;
};
void add_sums_norm(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const NormWeight& norm, const Tensor& out);

}  // namespace chorale
