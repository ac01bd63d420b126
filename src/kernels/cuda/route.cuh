// One token's choice of experts by a warp. Expert e belongs to lane e % 32; a softmax's sum runs over a
// lane's experts in ascending order and then over the lanes, as norm_order.h tells, in double precision.
#pragma once

#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/route_limits.h"

namespace chorale::cuda {

struct ChooseArgs {
  int num_experts;
  int top_k;
  bool normalize;
};

// Lane i has the i-th most likely expert, and lanes from top_k on have none.
struct ChosenExpert {
  int32_t expert;
  float weight;
};

__device__ __forceinline__ double add_over_warp(double sum) {
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
  return sum;
}

// An integer that orders as the logits do, above 0: -0 is 0, and NaN is below everything.
__device__ __forceinline__ unsigned rank_of(float logit) {
  if (isnan(logit)) return 1;
  const unsigned bits = __float_as_uint(logit + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// Adds up the packed integers of the lanes up to this one.
__device__ __forceinline__ int add_lanes_up_to(int value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int lower = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += lower;
  }
  return value;
}

template <int per_lane>
__device__ __forceinline__ ChosenExpert choose_for_token(const float* logits, const ChooseArgs& args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float logit[per_lane];
  unsigned rank[per_lane];  // 0: there is no such expert, or it has been chosen
  float largest = -INFINITY;
  bool has_nan = false;
#pragma unroll
  for (int j = 0; j < per_lane; ++j) {
    const int e = j * kWarp + lane;
    logit[j] = e < args.num_experts ? logits[e] : -INFINITY;
    rank[j] = e < args.num_experts ? rank_of(logit[j]) : 0;
    largest = fmaxf(largest, logit[j]);
    has_nan = has_nan || isnan(logit[j]);
  }
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, bit));

  ChosenExpert own{0, 0.0F};
  for (int i = 0; i < args.top_k; ++i) {
    unsigned best = 0;
    int best_expert = 0;
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
      if (rank[j] > best) {
        best = rank[j];
        best_expert = j * kWarp + lane;
      }
    }
    const unsigned highest = __reduce_max_sync(kAllLanes, best);
    const int winner = __reduce_min_sync(kAllLanes, best == highest ? best_expert : args.num_experts);
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
      if (j * kWarp + lane == winner) rank[j] = 0;
    }
    if (lane == i) own.expert = winner;
  }
  // The weights among the chosen alone need no sum over the others, but are NaN when one of these is.
  const bool chosen = lane < args.top_k;
  const double exponential = chosen ? exp(double{logits[own.expert]} - double{largest}) : 0.0;
  double sum = 0;
  if (args.normalize) {
    sum = add_over_warp(exponential);
    if (__any_sync(kAllLanes, has_nan)) sum = double{NAN};
  } else {
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
      if (j * kWarp + lane < args.num_experts) sum += exp(double{logit[j]} - double{largest});
    }
    sum = add_over_warp(sum);
  }
  if (chosen) own.weight = static_cast<float>(exponential / sum);
  return own;
}

}  // namespace chorale::cuda
