#include "kernels/cuda/pack.h"

#include "gpu/gpu_test.h"

namespace chorale::cuda {
namespace {

// Increasing borders from 0 to n, multiples of `unit` or n itself.
std::vector<int64_t> random_borders(Random& random, int64_t n, int64_t unit) {
  std::vector<int64_t> borders = {0};
  while (borders.back() < n) {
    const int64_t step = unit * random_int(random, 1, std::max<int64_t>(1, n / unit));
    borders.push_back(std::min(n, borders.back() + step));
  }
  return borders;
}

// Packs a matrix part by part, each from device memory of its own.
void pack_in_parts(Random& random, const ref::Matrix& matrix, DType dtype, const TiledLayout& layout,
                   int half, std::byte* target) {
  const std::vector<int64_t> rows = random_borders(random, matrix.rows, 1);
  const std::vector<int64_t> columns =
      random_borders(random, matrix.columns, random_int(random, 0, 1) * 7 + 1);
  for (size_t r = 0; r + 1 < rows.size(); ++r) {
    for (size_t c = 0; c + 1 < columns.size(); ++c) {
      ref::Matrix part(rows[r + 1] - rows[r], columns[c + 1] - columns[c]);
      for (int64_t i = 0; i < part.rows; ++i)
        for (int64_t j = 0; j < part.columns; ++j) part.at(i, j) = matrix.at(rows[r] + i, columns[c] + j);
      pack_rows(queue(), GpuTensor(dtype, part), layout, target, {rows[r], columns[c], half});
    }
  }
}

TEST(GpuPackRows, GivesTheBytesOfPackingOnTheHost) {
  Random random(1);
  for (int trial = 0; trial < 60; ++trial) {
    const bool pair = trial % 2 == 1;
    const DType from = trial / 2 % 2 == 0 ? DType::bf16 : DType::f32;
    const DType to = trial / 4 % 2 == 0 ? DType::bf16 : DType::f32;
    const TiledLayout layout{random_int(random, 1, 150), random_int(random, 1, 300), 1, pair, to};
    SCOPED_TRACE(fmt::format("{} x {}, {} to {}{}", layout.n, layout.k, name_of(from), name_of(to),
                             pair ? ", a pair" : ""));
    Bytes expected(layout.bytes(), 0xFF);
    const DeviceBuffer memory(queue().index(), static_cast<size_t>(layout.bytes()));  // zeros
    for (int half = 0; half < (pair ? 2 : 1); ++half) {
      const ref::Matrix matrix = random_matrix(random, layout.n, layout.k, from);
      pack(source_of(matrix), layout, expected.data(), half);
      pack_in_parts(random, matrix, from, layout, half, memory.data());
    }
    std::vector<std::byte> found(memory.size());
    queue().copy(memory.data(), found.data(), found.size());
    queue().synchronize();
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size()), 0);
  }
}

// Rows that begin anywhere in a wider matrix.
TEST(GpuPackRows, RowsMayBeginAnywhere) {
  Random random(2);
  const ref::Matrix wide = random_matrix(random, 70, 300, DType::bf16);
  const GpuTensor rows(DType::bf16, wide);
  for (int64_t first : {0, 1, 2, 8, 13}) {
    const TiledLayout layout{70, 256};
    const DeviceBuffer memory(queue().index(), static_cast<size_t>(layout.bytes()));
    pack_rows(queue(), Tensor(rows).middle_columns(first, 256), layout, memory.data());
    Bytes expected(layout.bytes(), 0xFF);
    pack(source_of(columns_of(wide, first, 256)), layout, expected.data());
    std::vector<std::byte> found(memory.size());
    queue().copy(memory.data(), found.data(), found.size());
    queue().synchronize();
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size()), 0) << first;
  }
}

TEST(GpuPackRows, NoRowsAreNoWork) {
  const TiledLayout layout{3, 5};
  const DeviceBuffer memory(queue().index(), static_cast<size_t>(layout.bytes()));
  pack_rows(queue(), GpuTensor(DType::bf16, 0, 5), layout, memory.data());
  queue().synchronize();
}

}  // namespace
}  // namespace chorale::cuda
