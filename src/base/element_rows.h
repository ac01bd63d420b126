// Rows of elements as they lie in files, unaligned, converted to what the model computes with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace chorale {

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

// Converts `count` elements of such a dtype to bf16, rounded to nearest even, or f32; neither address need be
// aligned. Returns how many are NaN.
int64_t convert_elements(const std::byte* source, DType source_dtype, std::byte* target, DType target_dtype,
                         int64_t count);

}  // namespace chorale
