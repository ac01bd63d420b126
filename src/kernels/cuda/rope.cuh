// Norm and rotation of heads by a warp.
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
  return {weight.device_data<float>(), eps, rows_of<const float>(cos_sin), cos_sin.columns(),
          rows_aligned(weight, 2) && rows_aligned(cos_sin, 2)};
}

inline constexpr int kHeadsPerWarp = 2;  // where there are many tokens; more take too many registers

// Up to `heads` neighbouring heads of token t, of which `count` are there, at x. Calls write(head, dim,
// values) for each run of `run` dimensions. What all heads of a token share is read once, and what a thread
// reads of them at once.
template <int heads, int run, bool whole, typename Write>
__device__ __forceinline__ void norm_rope_heads(const float* x, const RopeArgs& args, int64_t t, int count,
                                                const Write& write) {
  using Run = Vector<float, run>;
  const int64_t half = args.head_dim / 2;
  const int64_t first = int64_t{threadIdx.x % kWarp} * run;
  constexpr int64_t step = int64_t{kWarp} * run;
  Run low[heads];  // a thread's first runs; of longer heads the others are read twice
  Run high[heads];
  float squares[heads];
#pragma unroll
  for (int h = 0; h < heads; ++h) {
    low[h] = Run{};
    high[h] = Run{};
    if (h >= count || first >= half) continue;
    low[h] = load<run, whole>(x + h * args.head_dim + first);
    high[h] = load<run, whole>(x + h * args.head_dim + half + first);
  }
#pragma unroll
  for (int h = 0; h < heads; ++h) {
    squares[h] = 0;
    if (h >= count) continue;
    const float* head = x + h * args.head_dim;
    for (int64_t i = first; i < half; i += step) {
      const Run a = i == first ? low[h] : load<run, whole>(head + i);
      const Run b = i == first ? high[h] : load<run, whole>(head + half + i);
#pragma unroll
      for (int j = 0; j < run; ++j) squares[h] = __fmaf_rn(a.at[j], a.at[j], squares[h]);
#pragma unroll
      for (int j = 0; j < run; ++j) squares[h] = __fmaf_rn(b.at[j], b.at[j], squares[h]);
    }
  }
#pragma unroll
  for (int h = 0; h < heads; ++h) squares[h] = add_over_warp(squares[h]);

  const float* cosines = args.cos_sin.row(t);
  for (int64_t i = first; i < half; i += step) {
    const Run wa = load<run, whole>(args.weight + i);
    const Run wb = load<run, whole>(args.weight + half + i);
    const Run cosine = load<run, whole>(cosines + i);
    const Run sine = load<run, whole>(cosines + half + i);
#pragma unroll
    for (int h = 0; h < heads; ++h) {
      if (h >= count) continue;
      const float scale = inverse_rms(squares[h], args.head_dim, args.eps);
      const float* head = x + h * args.head_dim;
      const Run a = i == first ? low[h] : load<run, whole>(head + i);
      const Run b = i == first ? high[h] : load<run, whole>(head + half + i);
      Run rotated_low;
      Run rotated_high;
#pragma unroll
      for (int j = 0; j < run; ++j) {
        const float p = wa.at[j] * (a.at[j] * scale);
        const float q = wb.at[j] * (b.at[j] * scale);
        rotated_low.at[j] = p * cosine.at[j] - q * sine.at[j];
        rotated_high.at[j] = q * cosine.at[j] + p * sine.at[j];
      }
      write(h, i, rotated_low);
      write(h, half + i, rotated_high);
    }
  }
}

}  // namespace chorale::cuda
