#include "base/dtype.h"

#include <array>

namespace chorale {
namespace {

struct Names {
  DType dtype;
  std::string_view readable;
  std::string_view safetensors;
};

constexpr std::array<Names, 14> kNames{{
    {DType::f32, "float32", "F32"},
    {DType::f16, "float16", "F16"},
    {DType::bf16, "bfloat16", "BF16"},
    {DType::f64, "float64", "F64"},
    {DType::i8, "int8", "I8"},
    {DType::u8, "uint8", "U8"},
    {DType::i16, "int16", "I16"},
    {DType::u16, "uint16", "U16"},
    {DType::i32, "int32", "I32"},
    {DType::u32, "uint32", "U32"},
    {DType::i64, "int64", "I64"},
    {DType::u64, "uint64", "U64"},
    {DType::f8_e4m3, "float8_e4m3", "F8_E4M3"},
    {DType::boolean, "bool", "BOOL"},
}};

}  // namespace

std::string_view name_of(DType dtype) {
  for (const Names& n : kNames)
    if (n.dtype == dtype) return n.readable;
  return "?";
}

std::string_view safetensors_name(DType dtype) {
  for (const Names& n : kNames)
    if (n.dtype == dtype) return n.safetensors;
  return "?";
}

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const Names& n : kNames)
    if (n.safetensors == name) return n.dtype;
  return std::nullopt;
}

}  // namespace chorale
