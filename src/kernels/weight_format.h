// How the elements of a packed matrix are stored.
//
// int8 and int4 are integers in groups of neighbouring inputs of one output: an element is scale * (q -
// zero). Their products are exact integers within a group; see quantize.h for the rows that they are
// multiplied by.
#pragma once

#include <cstdint>

namespace chorale {

enum class WeightFormat : uint8_t {
  bf16,
  f32,
  int8,  // q in 1..255, zero 128, scale float32
  int4,  // q in 0..15, zero and scale float16
};

constexpr bool is_quantized(WeightFormat format) {
  return format == WeightFormat::int8 || format == WeightFormat::int4;
}

// Elements of one output in a word of 4 bytes.
constexpr int64_t elements_per_word(WeightFormat format) {
  switch (format) {
    case WeightFormat::bf16:
      return 2;
    case WeightFormat::f32:
      return 1;
    case WeightFormat::int8:
      return 4;
    case WeightFormat::int4:
      return 8;
  }
  return 1;
}

}  // namespace chorale
