// x / (1 + exp(-x)) in float32, by operations that round the same on host and device: what a kernel computes
// can be expected to the bit.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#define CHORALE_DEVICE_CODE __host__ __device__ __forceinline__
#else
#define CHORALE_DEVICE_CODE inline
#endif

namespace chorale::cuda {

// 2^n for -126 <= n <= 127.
CHORALE_DEVICE_CODE float power_of_two(int n) {
  return std::bit_cast<float>(static_cast<uint32_t>(n + 127) << 23U);
}

// 2^f for |f| <= 1/2, within 2 units in the last place: the polynomial of degree 6 that Taylor's series
// gives.
CHORALE_DEVICE_CODE float exp2_of_fraction(float f) {
  float p = 1.5403530e-4F;
  p = __builtin_fmaf(p, f, 1.3333558e-3F);
  p = __builtin_fmaf(p, f, 9.6181291e-3F);
  p = __builtin_fmaf(p, f, 5.5504109e-2F);
  p = __builtin_fmaf(p, f, 2.4022651e-1F);
  p = __builtin_fmaf(p, f, 6.9314718e-1F);
  return __builtin_fmaf(p, f, 1.0F);
}

// The integer nearest to x, for |x| < 2^22; ties to even.
CHORALE_DEVICE_CODE float nearest_integer(float x) {
  return (x + 0x1.8p23F) - 0x1.8p23F;
}

// 2^x for x <= 0; what is below 2^-126 becomes 0.
CHORALE_DEVICE_CODE float exp2_of_negative(float x) {
  if (x < -126.0F) return 0;
  const float n = nearest_integer(x);
  return exp2_of_fraction(x - n) * power_of_two(static_cast<int>(n));
}
// The same for an integer.
CHORALE_DEVICE_CODE float exp2_of_negative_integer(float n) {
  return n >= -126.0F ? power_of_two(static_cast<int>(n)) : 0.0F;
}

// x / (1 + exp(-x)).
CHORALE_DEVICE_CODE float silu(float x) {
  // Above, exp(-x) is nothing beside 1; below, the result is nearly zero. NaN stays NaN by the division.
  const float clamped = x > -87.0F ? (x < 87.0F ? x : 87.0F) : -87.0F;
  const float scaled = clamped * -1.44269504F;
  const float n = nearest_integer(scaled);
  // exp(-x) = 2^n * exp(rest), the rest in two steps.
  float rest = __builtin_fmaf(n, 6.93145752e-1F, clamped);
  rest = __builtin_fmaf(n, 1.42860677e-6F, rest);
  const float power = exp2_of_fraction(rest * -1.44269504F) * power_of_two(static_cast<int>(n));
  return x / (1.0F + power);
}

}  // namespace chorale::cuda
