// y[M, N] = x[M, K] * W[N, K]^T (+ bias[N]), float32 out.
//
// Each output element accumulates its K products in an order that depends on K and the dtypes alone, so a
// row's result does not depend on the other rows or on how the work is split.
#pragma once

#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/weight_matrix.h"

namespace chorale {

inline constexpr size_t kMaxMatmulTargets = 4;

struct MatmulTarget {
  WeightMatrix weight;  // [N, K], k_chunks == 1
  Tensor bias;          // [1, N] float32, or empty
  Tensor out;           // [M, N] float32
};

// Several matrices that read the same input run as one parallel region, at most kMaxMatmulTargets, all of one
// format. x: activations [M, K] of the weights' dtype, with row padding that is finite (as Arena gives it),
// or rows that are quantized for them (quantize.h).
void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets);

}  // namespace chorale
