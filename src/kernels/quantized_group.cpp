#include "kernels/quantized_group.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/float16.h"

namespace chorale {
namespace {

// A float32 this large has no bits below one, so adding it rounds to the nearest integer, ties to even; and
// compilers turn that into vector instructions, which they do not with std::nearbyint.
constexpr float kRounder = 0x1.8p23F;

int32_t round_to_int(float x) {
  return std::bit_cast<int32_t>(x + kRounder) - std::bit_cast<int32_t>(kRounder);
}

bool all_finite(std::span<const float> elements) {
  uint32_t largest = 0;
  for (const float w : elements) largest = std::max(largest, std::bit_cast<uint32_t>(w) & 0x7FFFFFFFU);
  return largest < 0x7F800000U;
}

// Four integers to a word.
void encode_int8(float scale, const std::array<uint8_t, kMaxInt8Group>& values, std::span<uint32_t> words) {
  words[0] = std::bit_cast<uint32_t>(scale);
  for (size_t s = 1; s < words.size(); ++s) {
    const uint8_t* four = values.data() + 4 * (s - 1);
    words[s] = four[0] | uint32_t{four[1]} << 8 | uint32_t{four[2]} << 16 | uint32_t{four[3]} << 24;
  }
}

void quantize_int8(std::span<const float> elements, std::span<uint32_t> words) {
  std::array<uint8_t, kMaxInt8Group> values;
  values.fill(128);
  float largest = 0;
  for (const float w : elements) largest = std::max(largest, std::fabs(w));
  // The reciprocal of a subnormal would overflow; such weights are zero beside any other.
  const float scale = largest < std::numeric_limits<float>::min() * 128 ? 0 : largest / 127;
  if (scale > 0) {
    const float inverse = 1 / scale;
    for (size_t i = 0; i < elements.size(); ++i)
      values[i] = static_cast<uint8_t>(128 + round_to_int(elements[i] * inverse));
  }
  encode_int8(scale, values, words);
}

// Scale and zero so that 0 and 15 reach the smallest and the largest element. Elements that differ by little
// get a larger scale, because float16 cannot tell zeros far from 0 apart; it is still finer than bf16.
void choose_int4_scale(float smallest, float largest, Int4Group& group) {
  constexpr float kMaxZero = 512;
  const float magnitude = std::max(std::fabs(smallest), std::fabs(largest));
  group.scale = to_float(to_f16(std::max((largest - smallest) / 15, magnitude / kMaxZero)));
  group.zero = group.scale > 0 ? to_float(to_f16(-smallest / group.scale)) : 0;
  if (smallest < largest) return;
  group.scale = to_float(to_f16(magnitude));
  group.zero = smallest > 0 ? -1.0F : 1.0F;
}

void quantize_int4(std::span<const float> elements, std::span<uint32_t> words) {
  float smallest = elements[0];
  float largest = elements[0];
  for (const float w : elements) {
    smallest = std::min(smallest, w);
    largest = std::max(largest, w);
  }
  Int4Group group;
  choose_int4_scale(smallest, largest, group);
  if (group.scale > 0) {
    const float inverse = 1 / group.scale;
    for (size_t i = 0; i < elements.size(); ++i) {
      const float q = std::clamp(elements[i] * inverse + group.zero, 0.0F, 15.0F);
      group.values[i] = static_cast<uint8_t>(round_to_int(q));
    }
  }
  encode_int4(group, words);
}

}  // namespace

void encode_int4(const Int4Group& group, std::span<uint32_t> words) {
  words[0] = to_f16(group.scale).bits | static_cast<uint32_t>(to_f16(group.zero).bits) << 16;
  for (size_t s = 1; s < words.size(); ++s) {
    const uint8_t* eight = group.values + 8 * (s - 1);
    uint32_t word = 0;
    for (uint32_t i = 0; i < 4; ++i) word |= (eight[i] | uint32_t{eight[4 + i]} << 4) << 8 * i;
    words[s] = word;
  }
}

void quantize_group(WeightFormat format, std::span<const float> elements, std::span<uint32_t> words) {
  const bool finite = all_finite(elements);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (format == WeightFormat::int8) {
    if (finite) return quantize_int8(elements, words);
    std::array<uint8_t, kMaxInt8Group> values;
    values.fill(128);
    encode_int8(nan, values, words);
  } else {
    if (finite) return quantize_int4(elements, words);
    encode_int4({.scale = nan, .zero = 0, .values = {}}, words);
  }
}

}  // namespace chorale
