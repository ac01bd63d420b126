// Adding up partial sums in device code: a thread has a run of a token's columns.
#pragma once

#include "kernels/cuda/fixed_point.cuh"
#include "kernels/cuda/norm_order.h"
#include "kernels/cuda/route_limits.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/partial_sums.h"

namespace chorale::cuda {

inline constexpr int kPartialBatch = 8;  // rows whose values are asked for at once

using FloatRun = Vector<float, kNormRun>;

// A run that is read once. All of a batch are asked for before the first is used, which the compiler does not
// do by itself.
__device__ __forceinline__ FloatRun load_once(const float* from) {
  static_assert(kNormRun == 4);
  FloatRun run;
  asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(run.at[0]), "=f"(run.at[1]), "=f"(run.at[2]), "=f"(run.at[3])
               : "l"(__cvta_generic_to_global(from)));
  return run;
}

// The sums of a run of columns, and how many partial sums were not finite.
struct RunSums {
  int64_t at[kNormRun] = {};
  int not_finite = 0;

  template <int n>
  __device__ __forceinline__ void add(const FloatRun (&runs)[n]) {
    bool is_large = false;  // something saturates or is not a number
#pragma unroll
    for (const FloatRun& run : runs) {
#pragma unroll
      for (const float partial : run.at) is_large |= !(fabsf(partial) < kFixedSaturation);
    }
    if (!is_large) {
#pragma unroll
      for (const FloatRun& run : runs) {
#pragma unroll
        for (int j = 0; j < kNormRun; ++j) at[j] += __float2ll_rn(run.at[j] * kFixedOne);
      }
      return;
    }
#pragma unroll
    for (const FloatRun& run : runs) {
#pragma unroll
      for (int j = 0; j < kNormRun; ++j) {
        const bool finite = fabsf(run.at[j]) < __int_as_float(0x7F800000);
        at[j] += to_fixed(finite ? run.at[j] : 0.0F);
        not_finite += finite ? 0 : 1;
      }
    }
  }
};

// PartialSums as kernels see them.
struct PartialArgs {
  const float* values = nullptr;
  int64_t stride = 0;
  const int32_t* counts = nullptr;  // null: token t has row t alone
  const int32_t* rows = nullptr;    // [T][kMaxRoutedTopK]

  static PartialArgs of(const PartialSums& partials) {
    return {partials.values.device_data<float>(), partials.values.row_stride(),
            partials.counts.empty() ? nullptr : partials.counts.device_data<int32_t>(),
            partials.counts.empty() ? nullptr : partials.rows.device_data<int32_t>()};
  }
};

// A token's rows, in shared memory. All threads of the block make it.
struct TokenRows {
  const int32_t* rows;
  int count;

  static __device__ __forceinline__ TokenRows of(const PartialArgs& args, int64_t token, int32_t* shared) {
    if (args.counts == nullptr) {
      if (threadIdx.x == 0) shared[0] = static_cast<int32_t>(token);
      __syncthreads();
      return {shared, 1};
    }
    const int count = args.counts[token];
    if (threadIdx.x < kMaxRoutedTopK) shared[threadIdx.x] = args.rows[token * kMaxRoutedTopK + threadIdx.x];
    __syncthreads();
    return {shared, count};
  }

  // The sums of the columns from c on, of which `left` are there. whole: all, and aligned.
  template <bool whole>
  __device__ __forceinline__ RunSums sums_of(const PartialArgs& args, int64_t c, int64_t left) const {
    RunSums sum;
    int first = 0;
    for (; whole && first + kPartialBatch <= count; first += kPartialBatch) {
      FloatRun runs[kPartialBatch];
#pragma unroll
      for (int i = 0; i < kPartialBatch; ++i)
        runs[i] = load_once(args.values + rows[first + i] * args.stride + c);
      sum.add(runs);
    }
    for (; first < count; ++first) {
      const FloatRun run[1] = {load<kNormRun, whole>(args.values + rows[first] * args.stride + c, left)};
      sum.add(run);
    }
    return sum;
  }
};

}  // namespace chorale::cuda
