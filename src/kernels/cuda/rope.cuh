// Norm and rotation of one head by a warp.
#pragma once

#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {

struct RopeArgs {
  const float* weight;
  float eps;
  Rows<const float> cos_sin;
  int64_t head_dim;
  bool aligned;  // weight and table, for runs of two
};

inline RopeArgs rope_args(const Tensor& weight, float eps, const Tensor& cos_sin) {
  return {weight.data<float>(), eps, rows_of<const float>(cos_sin), cos_sin.columns(),
          rows_aligned(weight, 2) && rows_aligned(cos_sin, 2)};
}

// Calls write(dim, values) for each run of `run` dimensions of token t's head at x.
template <int run, bool whole, typename Write>
__device__ __forceinline__ void norm_rope_head(const float* x, const RopeArgs& args, int64_t t,
                                               const Write& write) {
  const int64_t half = args.head_dim / 2;
  const int64_t first = int64_t{threadIdx.x % kWarp} * run;
  constexpr int64_t step = int64_t{kWarp} * run;
  float squares = 0;
  for (int64_t i = first; i < half; i += step) {
    const Vector<float, run> a = load<run, whole>(x + i);
    const Vector<float, run> b = load<run, whole>(x + half + i);
#pragma unroll
    for (int j = 0; j < run; ++j) squares = __fmaf_rn(a.at[j], a.at[j], squares);
#pragma unroll
    for (int j = 0; j < run; ++j) squares = __fmaf_rn(b.at[j], b.at[j], squares);
  }
  const float scale = inverse_rms(add_over_warp(squares), args.head_dim, args.eps);
  const float* cosines = args.cos_sin.row(t);
  for (int64_t i = first; i < half; i += step) {
    const Vector<float, run> a = load<run, whole>(x + i);
    const Vector<float, run> b = load<run, whole>(x + half + i);
    const Vector<float, run> wa = load<run, whole>(args.weight + i);
    const Vector<float, run> wb = load<run, whole>(args.weight + half + i);
    const Vector<float, run> cosine = load<run, whole>(cosines + i);
    const Vector<float, run> sine = load<run, whole>(cosines + half + i);
    Vector<float, run> low;
    Vector<float, run> high;
#pragma unroll
    for (int j = 0; j < run; ++j) {
      const float p = wa.at[j] * (a.at[j] * scale);
      const float q = wb.at[j] * (b.at[j] * scale);
      low.at[j] = p * cosine.at[j] - q * sine.at[j];
      high.at[j] = q * cosine.at[j] + p * sine.at[j];
    }
    write(i, low);
    write(half + i, high);
  }
}

}  // namespace chorale::cuda
