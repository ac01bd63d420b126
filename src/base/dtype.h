// Element types of tensors, their sizes and their names in safetensors files and in config.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace chorale {

// f8_e4m3 is what safetensors calls F8_E4M3: 4 bits of exponent, 3 of mantissa, NaN but no infinity
// (base/float8.h).
enum class DType : uint8_t { f32, f16, bf16, f64, i8, u8, i16, u16, i32, u32, i64, u64, f8_e4m3, boolean };

// Bytes of one element.
constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
    case DType::u64:
      return 8;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16:
      return 2;
    case DType::i8:
    case DType::u8:
    case DType::f8_e4m3:
    case DType::boolean:
      return 1;
  }
  return 0;
}

// The name people read in logs and errors: "float32", "bfloat16", ...
std::string_view name_of(DType dtype);

// The name in a safetensors header ("F32", "BF16", ...), and back; nullopt for a name that is not known.
std::string_view safetensors_name(DType dtype);
std::optional<DType> dtype_from_safetensors(std::string_view name);

}  // namespace chorale
