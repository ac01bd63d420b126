// One group of an int8 or int4 matrix: how its elements become integers, and the words of an output that
// hold them (see cpu/packed_matrix.h).
//
//   int8   scale = max |w| / 127, q = 128 + round(w / scale): the zero is exact, and so are products with it
//   int4   scale = (max w - min w) / 15, or max |w| / 512 where that is more, and zero = -min w / scale, both
//          rounded to float16 before q = round(w / scale + zero) is taken, so that q makes up for their
//          rounding
//
// A group with an element that is NaN or infinite gets the scale NaN, so that it stays visible.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/weight_matrix.h"

namespace chorale {

inline constexpr int64_t kMaxInt8Group = 128;  // 128 products of 8-bit integers are exact in float32
inline constexpr int64_t kMaxInt4Group = 64;

// Quantizes the elements, at most layout.group_k, into 1 + layout.group_words() words.
void quantize_group(WeightFormat format, std::span<const float> elements, std::span<uint32_t> words);

// The same for integers that there are already.
void encode_int4(const Int4Group& group, std::span<uint32_t> words);

}  // namespace chorale
