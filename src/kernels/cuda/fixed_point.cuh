// Conversions of fixed_point.h in device code; its constants are in shapes.h.
#pragma once

#include "kernels/shapes.h"

namespace chorale::cuda {

// A sum as float32: one rounding, and an exact product.
__device__ __forceinline__ float from_fixed(int64_t sum) {
  return __ll2float_rn(sum) * 0x1p-36F;
}

// What add_sums makes of an element of the residual. bias: of this column, or null. finite: the row's count
// of partial sums that were not finite is 0.
__device__ __forceinline__ float add_fixed(float residual, int64_t sum, const float* bias, bool finite) {
  const float value = from_fixed(sum);
  const float added = residual + (bias == nullptr ? value : value + *bias);
  return finite ? added : __int_as_float(0x7FC00000);  // NaN
}

// A finite partial sum in units of 2^-36.
__device__ __forceinline__ int64_t to_fixed(float value) {
  return __float2ll_rn(fminf(fmaxf(value, -kFixedSaturation), kFixedSaturation) * kFixedOne);
}

}  // namespace chorale::cuda
