// Parts of sampling in device code (sample.cu): what is known of a row, and sums by bins of a block's shared
// memory. All sums are of integers, so they are exact in any order.
#pragma once

#include <limits>

#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/sample.h"
#include "kernels/token_weight.h"

namespace chorale::cuda {

using Mass = unsigned long long;  // as CUDA's atomics have it

constexpr int kChooseThreads = 1024;
constexpr int kBins = 2 * kChooseThreads;  // a thread has two
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---- order: larger logits have larger numbers, all above 0; -0 is 0 ----

__device__ __forceinline__ unsigned order_of(float logit) {
  const unsigned bits = __float_as_uint(logit + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float logit_of(unsigned order) {
  return __uint_as_float((order & 0x80000000U) != 0 ? order & 0x7FFFFFFFU : ~order);
}

// A token's place among all: the logit's order, the largest first, then the id. Smaller is more likely.
constexpr int kIdBits = 20;
static_assert(kMaxVocabulary == int64_t{1} << kIdBits);
constexpr int kPlaceBits = 32 + kIdBits;
__device__ __forceinline__ uint64_t place_of(float logit, int token) {
  return uint64_t{~order_of(logit)} << kIdBits | static_cast<unsigned>(token);
}
__device__ __forceinline__ int token_of_place(uint64_t place) {
  return static_cast<int>(place & ((uint64_t{1} << kIdBits) - 1));
}
__device__ __forceinline__ float logit_of_place(uint64_t place) {
  return logit_of(~static_cast<unsigned>(place >> kIdBits));
}

// ---- rows ----

// What the kernels find out about a row; begins as zeros.
struct RowState {
  Mass best;          // the order of the largest logit after adjustments, then the complement of its id
  Mass total;         // weights of all tokens
  Mass likely;        // of those that min_p leaves
  Mass raw_total;     // of all tokens before adjustments, at temperature 1
  unsigned least;     // the complement of the order of the smallest finite logit after adjustments
  unsigned raw_best;  // the order of the largest logit before adjustments
  int is_bad;         // NaN or plus infinity is among them

  __device__ float max() const { return logit_of(static_cast<unsigned>(best >> 32U)); }
  __device__ int best_token() const { return static_cast<int>(~static_cast<unsigned>(best)); }
  __device__ float raw_max() const { return logit_of(raw_best); }
  __device__ bool is_usable() const { return is_bad == 0 && raw_max() > -kInfinity; }
  __device__ bool has_tokens() const { return max() > -kInfinity; }
};

struct List {
  const int32_t* offsets = nullptr;  // null: no row has entries
  const int32_t* tokens = nullptr;
  const void* values = nullptr;
};

// A row's entries of a list.
struct Entries {
  int begin = 0, end = 0;
  __device__ Entries(const List& list, int64_t row) {
    if (list.offsets == nullptr) return;
    begin = list.offsets[row];
    end = list.offsets[row + 1];
  }
  __device__ bool empty() const { return begin == end; }
};

struct SampleArgs {
  Rows<const float> logits;
  int vocab_size = 0;
  const std::byte* params = nullptr;
  int64_t params_stride = 0;
  List bias;
  Rows<int32_t> counts{};  // null: no row has a slot
  Rows<const unsigned> allowed{};
  // Of each row that is worked on: its state, kBins masses, V places, and V logits, or half as many places.
  std::byte* scratch = nullptr;
  int64_t scratch_stride = 0;
  int32_t* tokens = nullptr;
  int32_t* statuses = nullptr;
  Rows<float> logprobs{};
  Rows<int32_t> top_tokens{};
  int num_top = 0;        // columns of top_tokens
  int64_t first_row = 0;  // of those that are worked on
};

// One of the rows that are worked on.
struct SampleRow {
  const SampleArgs& args;
  int64_t row;
  std::byte* scratch;
  const SampleParams& params;

  __device__ SampleRow(const SampleArgs& all, unsigned index)
      : args(all),
        row(all.first_row + index),
        scratch(all.scratch + index * all.scratch_stride),
        params(*reinterpret_cast<const SampleParams*>(all.params + row * all.params_stride)) {}

  __device__ RowState& state() const { return *reinterpret_cast<RowState*>(scratch); }
  __device__ Mass* bins() const { return reinterpret_cast<Mass*>(scratch + sizeof(RowState)); }
  __device__ uint64_t* places() const { return reinterpret_cast<uint64_t*>(bins() + kBins); }
  __device__ float* adjusted() const { return reinterpret_cast<float*>(places() + args.vocab_size); }
  __device__ const float* raw() const { return args.logits.row(row); }

  __device__ bool penalizes() const {
    if (counts() == nullptr) return false;
    return params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0;
  }
  // How often each token came, or null.
  __device__ int32_t* counts() const {
    return args.counts.data == nullptr || params.count_slot < 0 ? nullptr
                                                                : args.counts.row(params.count_slot);
  }
  __device__ bool is_given() const { return params.given_token >= 0; }
  __device__ bool is_adjusted() const {
    return !is_given() && (params.is_masked != 0 || penalizes() || !Entries(args.bias, row).empty());
  }
  __device__ const float* logits() const { return is_adjusted() ? adjusted() : raw(); }
};

// Finite, as adjustments leave finite logits.
__device__ __forceinline__ float bounded(double logit) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(fmin(fmax(logit, -kLargest), kLargest));
}

// ---- intervals of logits ----

// kBins equal intervals of the logits that have weight, the largest logits first: a token of an earlier one
// is never less likely than one of a later.
struct Intervals {
  float max, scale;

  __device__ Intervals(float largest, float smallest, double temperature) : max(largest) {
    const double range = fmin(double{largest} - double{smallest}, kNoWeight * temperature);
    scale = bounded(kBins / fmax(range, 1e-30));
  }
  __device__ int of(float logit) const {
    const float interval = (max - logit) * scale;
    return interval < static_cast<float>(kBins - 1) ? static_cast<int>(interval) : kBins - 1;
  }
};

// A token's weight at a temperature.
struct Weigh {
  float max;
  double temperature;
  __device__ Mass operator()(float logit) const {
    return token_weight(weight_exponent(logit, max, temperature));
  }
};
// As a weight: how many tokens.
struct Count {
  __device__ Mass operator()(float) const { return 1; }
};

// ---- bins in shared memory ----

// Sums of 64 bits by two additions of 32: shared memory has no other.
struct Bins {
  unsigned low[kBins], high[kBins];

  __device__ void clear() {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += static_cast<int>(blockDim.x))
      low[i] = high[i] = 0;
  }
  __device__ void add(int bin, Mass mass) {
    const auto part = static_cast<unsigned>(mass);
    const unsigned before = atomicAdd(&low[bin], part);
    const unsigned rest = static_cast<unsigned>(mass >> 32U) + (before + part < before ? 1U : 0U);
    if (rest != 0) atomicAdd(&high[bin], rest);
  }
  __device__ Mass at(int bin) const { return Mass{high[bin]} << 32U | low[bin]; }
  __device__ void set(int bin, Mass mass) {
    low[bin] = static_cast<unsigned>(mass);
    high[bin] = static_cast<unsigned>(mass >> 32U);
  }
};

__device__ __forceinline__ Mass add_masses_over_warp(Mass mass) {
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) mass += __shfl_xor_sync(kAllLanes, mass, bit);
  return mass;
}

// The shared memory of a block of kChooseThreads, and what its threads do together.
struct ChooseMemory {
  Bins bins;
  Mass warps[kWarp];
  struct Found {
    int bin;
    Mass before;  // of the bins before it
  } found;
  int count;

  // The sum over all threads.
  __device__ Mass add(Mass mass) {
    mass = add_masses_over_warp(mass);
    __syncthreads();  // what was in `warps` has been read
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mass;
    __syncthreads();
    return add_masses_over_warp(warps[threadIdx.x % kWarp]);
  }

  // The first bin at which the running sum exceeds `target`, which the sum of all does.
  __device__ Found find(Mass target) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, first = static_cast<int>(threadIdx.x) * 2;
    const Mass own[2] = {bins.at(first), bins.at(first + 1)};
    Mass running = own[0] + own[1];
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const Mass lower = __shfl_up_sync(kAllLanes, running, step);
      if (lane >= step) running += lower;
    }
    __syncthreads();
    if (lane == kWarp - 1) warps[threadIdx.x / kWarp] = running;
    if (threadIdx.x == 0) found = {0, 0};
    __syncthreads();
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    running += add_masses_over_warp(lane < warp ? warps[lane] : 0);
    const Mass before = running - own[0] - own[1];
    if (before <= target && target < running) {
      const bool is_second = target >= before + own[0];
      found = {first + (is_second ? 1 : 0), before + (is_second ? own[0] : 0)};
    }
    __syncthreads();
    const Found result = found;
    __syncthreads();
    return result;
  }
};

}  // namespace chorale::cuda
