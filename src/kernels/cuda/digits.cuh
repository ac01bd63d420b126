// Fixed-point sums (fixed_point.h) of partial sums that are not too large in two digits of 32 bits, without
// conversions between float and 64-bit integers, of which a multiprocessor does 16 a cycle: it adds 128
// floats.
//
// A partial sum is split by adding it to a float so large that what it can hold are multiples of 2^-13: these
// are the high digit, and that float is their sum so far. What is left is exact, at most 2^-14, and is
// rounded to a multiple of 2^-36 by adding it to 1.5 * 2^-13; the bits of that sum are an integer. A multiple
// of 2^-13 is an even number of 2^-36, so halves are rounded to the same side as those of the whole partial
// sum.
#pragma once

#include <cstdint>

namespace chorale::cuda {

// So many partial sums of at most this leave their sum where its unit is 2^-13.
constexpr float largest_in_digits(int64_t partial_sums) {
  return 511.0F / static_cast<float>(partial_sums);
}

// The larger magnitude, or NaN where one is.
__device__ __forceinline__ float larger(float magnitude, float value) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(magnitude), "f"(fabsf(value)));
  return result;
}

template <int Size>
struct Digits {
  static constexpr float kHighZero = 1536;  // its unit is 2^-13 up to +-512 around it
  static constexpr float kLowZero = 0x1.8p-13F;
  float high[Size];
  int low[Size];

  // For the sum of `count` partial sums.
  __device__ __forceinline__ void begin(int count) {
#pragma unroll
    for (int i = 0; i < Size; ++i) {
      high[i] = kHighZero;
      low[i] = -count * __float_as_int(kLowZero);
    }
  }
  __device__ __forceinline__ void add(int i, float partial) {
    const float sum = __fadd_rn(high[i], partial);
    const float rest = __fsub_rn(partial, __fsub_rn(sum, high[i]));
    high[i] = sum;
    low[i] += __float_as_int(__fadd_rn(rest, kLowZero));
    asm volatile("" : "+r"(low[i]));  // not kept to be added with the next one: that takes as many registers
  }
  static __device__ __forceinline__ long long value_of(float high_digit, int low_digit) {
    const long long units = __float_as_int(high_digit) - __float_as_int(kHighZero);
    return (units << 23) + low_digit;
  }
  __device__ __forceinline__ long long value(int i) const {
    return value_of(high[i], low[i]);
  }
};

}  // namespace chorale::cuda
