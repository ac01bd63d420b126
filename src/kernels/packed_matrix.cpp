#include "kernels/packed_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "kernels/quantized_group.h"

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

WeightFormat plain_format(DType dtype) {
  CHORALE_CHECK(dtype == DType::bf16 || dtype == DType::f32, "matrices of {}", name_of(dtype));
  return dtype == DType::bf16 ? WeightFormat::bf16 : WeightFormat::f32;
}

DType element_dtype(WeightFormat format) {
  return format == WeightFormat::bf16 ? DType::bf16 : DType::f32;
}

int64_t choose_group(WeightFormat format, int64_t chunk_k, int64_t source_group) {
  if (!is_quantized(format)) return 0;
  constexpr int64_t kUnit = 8;
  const int64_t most = format == WeightFormat::int8 ? kMostInt8Group : kMostInt4Group;
  if (source_group > 0) {
    // Groups that divide both the chunk and the source's groups.
    int64_t group = std::gcd(chunk_k, source_group);
    while (group > most && group % 2 == 0) group /= 2;
    CHORALE_CHECK(group % kUnit == 0 && group <= most, "groups of {} in chunks of {}", source_group, chunk_k);
    return group;
  }
  const int64_t groups = (chunk_k + most - 1) / most;
  return ((chunk_k + groups - 1) / groups + kUnit - 1) / kUnit * kUnit;
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

namespace {

// Packs one chunk from encode(row, column, out), which writes a row's steps of 4 bytes and returns its NaNs.
// What it leaves alone is zero.
template <typename Encode>
int64_t pack_rows(const PackedLayout& layout, std::byte* target, int64_t chunk, int half,
                  const Encode& encode) {
  const bool split_n = layout.n_chunks > 1;
  const int64_t first_row = split_n ? chunk * layout.chunk_n() : 0;
  const int64_t first_column = split_n ? 0 : chunk * layout.chunk_k();
  const int64_t steps = layout.chunk_k_steps();
  const int64_t pair = layout.fused_pair ? 2 : 1;

  std::vector<uint32_t> rows(static_cast<size_t>(kPanelWidth * steps));
  int64_t nans = 0;
  for (int64_t p = 0; p < layout.panels_per_chunk() / pair; ++p) {
    const int64_t lanes = std::min(kPanelWidth, layout.chunk_n() - p * kPanelWidth);
    if (lanes < kPanelWidth) std::fill(rows.begin() + lanes * steps, rows.end(), 0U);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      nans += encode(first_row + p * kPanelWidth + lane, first_column, rows.data() + lane * steps);
    }
    std::byte* panel = target + layout.panel_offset(chunk, p * pair + half);
    interleave(rows.data(), steps, layout.step_stride(p * pair + half) / 4,
               reinterpret_cast<uint32_t*>(panel));
  }
  return nans;
}

}  // namespace

int64_t pack_chunk(const ElementReader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  const int64_t inputs = layout.chunk_k();
  if (is_quantized(layout.format)) {
    std::vector<float> values(static_cast<size_t>(inputs));
    return pack_rows(layout, target, chunk, half, [&](int64_t row, int64_t column, uint32_t* out) {
      const int64_t nans = read(row, column, inputs, reinterpret_cast<std::byte*>(values.data()));
      for (int64_t begin = 0; begin < inputs; begin += layout.group_k) {
        const auto count = static_cast<size_t>(std::min(layout.group_k, inputs - begin));
        const std::span<uint32_t> steps(out, static_cast<size_t>(1 + layout.group_steps()));
        quantize_group(layout.format, std::span(values).subspan(static_cast<size_t>(begin), count), steps);
        out += steps.size();
      }
      return nans;
    });
  }
  return pack_rows(layout, target, chunk, half, [&](int64_t row, int64_t column, uint32_t* out) {
    out[layout.chunk_k_steps() - 1] = 0;  // an odd number of bf16 is padded
    return read(row, column, inputs, reinterpret_cast<std::byte*>(out));
  });
}

void pack_int4_chunk(const Int4Reader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                     int half) {
  CHORALE_CHECK(layout.format == WeightFormat::int4);
  pack_rows(layout, target, chunk, half, [&](int64_t row, int64_t column, uint32_t* out) {
    for (int64_t begin = 0; begin < layout.chunk_k(); begin += layout.group_k) {
      Int4Group group;
      read(row, column + begin, std::min(layout.group_k, layout.chunk_k() - begin), group);
      const std::span<uint32_t> steps(out, static_cast<size_t>(1 + layout.group_steps()));
      encode_int4(group, steps);
      out += steps.size();
    }
    return int64_t{0};
  });
}

int64_t pack_chunk(const SourceMatrix& source, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  CHORALE_CHECK(source.rows == layout.n && source.columns == layout.k, "[{}, {}] for [{}, {}]", source.rows,
                source.columns, layout.n, layout.k);
  const auto element = static_cast<int64_t>(size_of(source.dtype));
  const DType dtype = element_dtype(layout.format);
  return pack_chunk(
      [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
        const std::byte* from = source.data + (row * source.columns + column) * element;
        return convert_elements(from, source.dtype, out, dtype, count);
      },
      layout, target, chunk, half);
}

}  // namespace chorale
