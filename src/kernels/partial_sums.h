// Partial sums of an order-free product that are not added up yet (fixed_point.h). Where a matrix has one
// canonical chunk, a row of the product has one partial sum for each output; a backend may store these and
// add them up where they are used, which takes less memory traffic than sums of 64 bits in between. The bits
// are the same. order_free_partials of expert_matmul.h makes them.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/fixed_point.h"

namespace chorale {

struct PartialSums {
  Tensor values;  // float32 [R, N]: weight * (x[row] * W^T)
  // The rows of each token, in any order; empty: token t has row t alone.
  Tensor counts{};  // int32 [1, T]
  Tensor rows{};    // int32 [T, most]

  bool empty() const { return values.empty(); }
};

// sums = all of them. sums: int64 [T, N + 1].
void add_partials(const Stream& stream, const PartialSums& partials, const Tensor& sums);

// As add_sums_norm of those sums.
void add_partials_norm(const Stream& stream, const PartialSums& partials, const Tensor& bias,
                       const Tensor& residual, const NormWeight& norm, const Tensor& out);

}  // namespace chorale
