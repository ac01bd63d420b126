// Rows of elements as they lie in files, unaligned, converted to what the model computes with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/dtype.h"

namespace chorale::io {

// An element of a file; its address need not be aligned.
template <typename T>
T load_element(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

// Whether the dtype is one of those that plain weights and scales may have: bf16, f16, f32.
bool is_float_element(DType dtype);

// One element of such a dtype; exact.
float load_float(const std::byte* address, DType dtype);

// Writes the values as bf16, rounded to nearest even, or f32; returns how many are NaN.
int64_t store_floats(std::span<const float> values, std::byte* out, DType dtype);

// Converts `count` elements of bf16, f16 or f32 to bf16 or f32, as above.
int64_t convert_row(const std::byte* source, DType source_dtype, int64_t count, std::byte* out, DType dtype);

}  // namespace chorale::io
