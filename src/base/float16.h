// Conversions between float32 and the two 16-bit formats, round to nearest even. Plain code for single values
// and references; the kernels use vector instructions that give the same bits for finite values.
#pragma once

#include <bit>
#include <cstdint>

namespace chorale {

// Storage of one bfloat16 value: the upper half of a float32.
struct bf16 {
  uint16_t bits;
  bool operator==(const bf16&) const = default;
};

// Storage of one IEEE binary16 value.
struct f16 {
  uint16_t bits;
  bool operator==(const f16&) const = default;
};

constexpr float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

constexpr bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U)
    return {static_cast<uint16_t>((bits >> 16) | 0x40U)};  // keep it NaN
  return {static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

float to_float(f16 x);
f16 to_f16(float x);

}  // namespace chorale
