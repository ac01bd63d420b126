#include "kernels/cuda/pack.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/element_rows.h"
#include "base/error.h"

namespace chorale::cuda {
namespace {

// The elements of a source's row from `first_column` on. Returns how many are NaN.
int64_t convert(const SourceMatrix& source, int64_t row, int64_t first_column, std::byte* out, DType dtype,
                int64_t count) {
  const int64_t stride = source.row_stride > 0 ? source.row_stride : source.columns;
  const auto element = static_cast<int64_t>(size_of(source.dtype));
  return convert_elements(source.data + (row * stride + first_column) * element, source.dtype, out, dtype,
                          count);
}

// One stored row's part of a tile, or zeros for a row or columns that there are none of.
int64_t pack_row(const SourceMatrix& source, int64_t source_row, int64_t first_column, std::byte* tile,
                 int64_t row) {
  std::array<uint16_t, kTile> values{};
  int64_t nans = 0;
  const int64_t columns = std::min(kTile, source.columns - first_column);
  if (source_row < source.rows)
    nans = convert(source, source_row, first_column, reinterpret_cast<std::byte*>(values.data()), DType::bf16,
                   columns);
  for (int64_t column = 0; column < kTile; column += kPiece)
    std::memcpy(tile + swizzled(row, column) * 2, &values[static_cast<size_t>(column)], kPiece * 2);
  return nans;
}

// One stored row of a matrix without tiles, or zeros.
int64_t pack_plain_row(const SourceMatrix& source, int64_t source_row, std::byte* row) {
  if (source_row < source.rows) return convert(source, source_row, 0, row, DType::f32, source.columns);
  std::memset(row, 0, static_cast<size_t>(source.columns) * sizeof(float));
  return 0;
}

}  // namespace

int64_t pack_tiles(const SourceMatrix& source, const TiledLayout& layout, std::byte* target,
                   int64_t first_tile, int64_t count, int half) {
  CHORALE_CHECK(source.rows == layout.n && source.columns == layout.k);
  CHORALE_CHECK(half == 0 || (half == 1 && layout.fused_pair));
  CHORALE_CHECK(first_tile >= 0 && first_tile + count <= layout.row_tiles());
  int64_t nans = 0;
  for (int64_t tile = first_tile; tile < first_tile + count; ++tile) {
    for (int64_t row = 0; row < kTile; ++row) {
      const int64_t stored = tile * kTile + row;
      if (layout.fused_pair && stored / 8 % 2 != half) continue;
      const int64_t source_row = layout.fused_pair ? stored / 16 * 8 + stored % 8 : stored;
      if (!layout.has_tiles()) {
        if (stored >= layout.rows()) break;
        nans += pack_plain_row(source, source_row,
                               target + layout.element(stored, 0) * static_cast<int64_t>(sizeof(float)));
        continue;
      }
      for (int64_t k = 0; k < layout.k_tiles(); ++k)
        nans +=
            pack_row(source, source_row, k * kTile, target + (tile * layout.k_tiles() + k) * kTileBytes, row);
    }
  }
  return nans;
}

int64_t pack(const SourceMatrix& source, const TiledLayout& layout, std::byte* target, int half) {
  return pack_tiles(source, layout, target, 0, layout.row_tiles(), half);
}

}  // namespace chorale::cuda
