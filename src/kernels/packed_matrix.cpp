#include "kernels/packed_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/float16.h"

namespace chorale {
namespace {

template <typename T>
T load(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));  // file bytes need not be aligned
  return value;
}

template <typename Source>
float widen(const std::byte* address) {
  if constexpr (std::is_same_v<Source, float>)
    return load<float>(address);
  else
    return to_float(load<Source>(address));
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
  for (int64_t i = 0; i < count; ++i) nans += (load<uint16_t>(source + 2 * i) & 0x7FFFU) > 0x7F80U ? 1 : 0;
  return nans;
}

// Interleaves up to 16 converted rows into one panel, whose steps lie `stride` apart. `rows` holds
// kPanelWidth rows of `steps` elements each.
template <typename Element>
void interleave(const Element* rows, int64_t steps, int64_t stride, Element* panel) {
  constexpr int64_t kTile = 16;  // keeps the 16 row streams and the output in the first-level cache
  for (int64_t begin = 0; begin < steps; begin += kTile) {
    const int64_t end = std::min(steps, begin + kTile);
    for (int64_t lane = 0; lane < kPanelWidth; ++lane)
      for (int64_t s = begin; s < end; ++s) panel[s * stride + lane] = rows[lane * steps + s];
  }
}

}  // namespace

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

PackedLayout slice_layout(const PackedLayout& layout, int64_t count) {
  PackedLayout slice = layout;
  const bool split_n = layout.n_chunks > 1;
  const int64_t chunks = split_n ? layout.n_chunks : layout.k_chunks;
  CHORALE_CHECK(count >= 1 && count <= chunks, "{} chunks of {}", count, chunks);
  (split_n ? slice.n_chunks : slice.k_chunks) = count;
  (split_n ? slice.n : slice.k) = count * (split_n ? layout.chunk_n() : layout.chunk_k());
  return slice;
}

PackedMatrix slice_chunks(const PackedMatrix& matrix, int64_t first, int64_t count) {
  const int64_t chunks = matrix.layout.n_chunks * matrix.layout.k_chunks;
  CHORALE_CHECK(first >= 0 && first + count <= chunks, "chunks {} to {} of {}", first, first + count, chunks);
  return {slice_layout(matrix.layout, count), matrix.data + first * matrix.layout.chunk_bytes()};
}

int64_t pack_chunk(const ElementReader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  const bool split_n = layout.n_chunks > 1;
  const int64_t first_row = split_n ? chunk * layout.chunk_n() : 0;
  const int64_t first_column = split_n ? 0 : chunk * layout.chunk_k();
  const int64_t row_bytes = layout.chunk_k_steps() * 4;  // a step is 4 bytes: two bf16 or one f32
  const int64_t pair = layout.fused_pair ? 2 : 1;
  const bool padded = layout.chunk_k() * static_cast<int64_t>(size_of(layout.dtype)) != row_bytes;

  std::vector<uint32_t> rows(static_cast<size_t>(kPanelWidth * layout.chunk_k_steps()));
  int64_t nans = 0;
  for (int64_t p = 0; p < layout.panels_per_chunk() / pair; ++p) {
    const int64_t lanes = std::min(kPanelWidth, layout.chunk_n() - p * kPanelWidth);
    if (lanes < kPanelWidth || padded) std::fill(rows.begin(), rows.end(), 0U);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      std::byte* to = reinterpret_cast<std::byte*>(rows.data()) + lane * row_bytes;
      nans += read(first_row + p * kPanelWidth + lane, first_column, layout.chunk_k(), to);
    }
    std::byte* panel = target + layout.panel_offset(chunk, p * pair + half);
    interleave(rows.data(), layout.chunk_k_steps(), layout.step_stride(p * pair + half) / 4,
               reinterpret_cast<uint32_t*>(panel));
  }
  return nans;
}

int64_t pack_chunk(const SourceMatrix& source, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  CHORALE_CHECK(source.rows == layout.n && source.columns == layout.k, "[{}, {}] for [{}, {}]", source.rows,
                source.columns, layout.n, layout.k);
  const auto element = static_cast<int64_t>(size_of(source.dtype));
  return pack_chunk(
      [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
        const std::byte* from = source.data + (row * source.columns + column) * element;
        return convert_elements(from, source.dtype, out, layout.dtype, count);
      },
      layout, target, chunk, half);
}

}  // namespace chorale
