#include "base/element_rows.h"

#include <cmath>
#include <type_traits>

#include "base/error.h"
#include "base/float16.h"

namespace chorale {
namespace {

template <typename Source>
float widen(const std::byte* address) {
  if constexpr (std::is_same_v<Source, float>)
    return load_element<float>(address);
  else
    return to_float(load_element<Source>(address));
}

template <typename Source, typename Target>
int64_t convert(const std::byte* source, std::byte* target, int64_t count) {
  int64_t nans = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float value = widen<Source>(source + i * static_cast<int64_t>(sizeof(Source)));
    nans += std::isnan(value) ? 1 : 0;
    Target out;
    if constexpr (std::is_same_v<Target, float>)
      out = value;
    else
      out = to_bf16(value);
    std::memcpy(target + i * static_cast<int64_t>(sizeof(Target)), &out, sizeof(Target));
  }
  return nans;
}

// bf16 to bf16 is a copy; NaN is a magnitude above infinity's.
int64_t copy_bf16(const std::byte* source, std::byte* target, int64_t count) {
  std::memcpy(target, source, static_cast<size_t>(count) * 2);
  int64_t nans = 0;
  for (int64_t i = 0; i < count; ++i)
    nans += (load_element<uint16_t>(source + 2 * i) & 0x7FFFU) > 0x7F80U ? 1 : 0;
  return nans;
}

}  // namespace

bool is_float_element(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32;
}

float load_float(const std::byte* address, DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return widen<bf16>(address);
    case DType::f16:
      return widen<f16>(address);
    case DType::f32:
      return widen<float>(address);
    default:
      CHORALE_CHECK(false, "elements of dtype {}", name_of(dtype));
  }
  return 0;
}

int64_t convert_elements(const std::byte* source, DType source_dtype, std::byte* target, DType target_dtype,
                         int64_t count) {
  CHORALE_CHECK(target_dtype == DType::bf16 || target_dtype == DType::f32);
  const bool narrow = target_dtype == DType::bf16;
  switch (source_dtype) {
    case DType::bf16:
      return narrow ? copy_bf16(source, target, count) : convert<bf16, float>(source, target, count);
    case DType::f16:
      return narrow ? convert<f16, bf16>(source, target, count) : convert<f16, float>(source, target, count);
    case DType::f32:
      return narrow ? convert<float, bf16>(source, target, count)
                    : convert<float, float>(source, target, count);
    default:
      CHORALE_CHECK(false, "weights of dtype {}", name_of(source_dtype));
  }
  return 0;
}

}  // namespace chorale
