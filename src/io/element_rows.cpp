#include "io/element_rows.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/float16.h"

namespace chorale::io {
namespace {

constexpr int64_t kBlock = 256;

template <typename Source>
void widen(const std::byte* source, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const auto value = load_element<Source>(source + i * static_cast<int64_t>(sizeof(Source)));
    if constexpr (std::is_same_v<Source, float>)
      out[i] = value;
    else
      out[i] = to_float(value);
  }
}

void widen(const std::byte* source, DType dtype, int64_t count, float* out) {
  switch (dtype) {
    case DType::bf16:
      return widen<bf16>(source, count, out);
    case DType::f16:
      return widen<f16>(source, count, out);
    case DType::f32:
      return widen<float>(source, count, out);
    default:
      CHORALE_CHECK(false, "elements of dtype {}", name_of(dtype));
  }
}

// bf16 to bf16 is a copy; NaN is a magnitude above infinity's.
int64_t copy_bf16(const std::byte* source, int64_t count, std::byte* out) {
  std::memcpy(out, source, static_cast<size_t>(count) * 2);
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
  float value = 0;
  widen(address, dtype, 1, &value);
  return value;
}

int64_t store_floats(std::span<const float> values, std::byte* out, DType dtype) {
  int64_t nans = 0;
  for (const float value : values) nans += value != value ? 1 : 0;
  if (dtype == DType::f32) {
    std::memcpy(out, values.data(), values.size_bytes());
    return nans;
  }
  CHORALE_CHECK(dtype == DType::bf16, "weights as {}", name_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const bf16 rounded = to_bf16(values[i]);
    std::memcpy(out + i * sizeof(bf16), &rounded, sizeof(bf16));
  }
  return nans;
}

int64_t convert_row(const std::byte* source, DType source_dtype, int64_t count, std::byte* out, DType dtype) {
  if (source_dtype == DType::bf16 && dtype == DType::bf16) return copy_bf16(source, count, out);
  std::array<float, kBlock> values;
  const auto from = static_cast<int64_t>(size_of(source_dtype));
  const auto to = static_cast<int64_t>(size_of(dtype));
  int64_t nans = 0;
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t n = std::min(kBlock, count - done);
    widen(source + done * from, source_dtype, n, values.data());
    nans += store_floats({values.data(), static_cast<size_t>(n)}, out + done * to, dtype);
  }
  return nans;
}

}  // namespace chorale::io
