// Sums of squares in device code, in the order of norm_order.h.
#pragma once

#include "kernels/cuda/norm_order.h"

namespace chorale::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;

// Adds up over a warp; every thread gets the sum.
__device__ __forceinline__ float add_over_warp(float sum) {
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
  return sum;
}

// Over the block's warps, of which there are blockDim.x / 32.
__device__ __forceinline__ float add_over_block(float sum) {
  __shared__ float warps[kMaxNormThreads / kWarp];
  sum = add_over_warp(sum);
  if (blockDim.x == kWarp) return sum;
  const unsigned lane = threadIdx.x % kWarp;
  if (lane == 0) warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  return add_over_warp(lane < blockDim.x / kWarp ? warps[lane] : 0.0F);
}

__device__ __forceinline__ float inverse_rms(float squares, int64_t columns, float eps) {
  return 1.0F / sqrtf(squares / static_cast<float>(columns) + eps);
}

}  // namespace chorale::cuda
