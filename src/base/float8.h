// The 8-bit format of quantized weights that safetensors calls F8_E4M3 and others e4m3fn: sign, 4 bits of
// exponent with bias 7, 3 bits of mantissa. There is no infinity; all bits of the magnitude set is NaN, and
// the largest number is 448.
#pragma once

#include <bit>
#include <cstdint>

namespace chorale {

// Storage of one value.
struct f8_e4m3 {
  uint8_t bits;
  bool operator==(const f8_e4m3&) const = default;
};

// Exact: float32 has every value.
constexpr float to_float(f8_e4m3 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x80U) << 24;
  const uint32_t exponent = (x.bits >> 3) & 0xFU;
  const uint32_t mantissa = x.bits & 0x7U;
  if (exponent == 0xF && mantissa == 0x7) return std::bit_cast<float>(sign | 0x7FC00000U);
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 120U) << 23) | (mantissa << 20));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;  // subnormal
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace chorale
