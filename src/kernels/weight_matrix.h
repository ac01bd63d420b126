// A weight matrix [N, K] as all backends know it: its shape, the format of its elements, and its canonical
// chunks. How it lies in memory is the backend's own affair (kernels/backend.h says how many bytes it takes
// and where a chunk begins; cpu/packed_matrix.h and cuda/layout.h have the layouts of a CPU and a GPU).
//
// The outputs are cut into n_chunks equal ranges or the inputs into k_chunks equal ranges (never both), which
// are the canonical chunks of the sharding plan; a tensor-parallel rank's shard is some of them. A fused pair
// is the gate and the up matrix as one; chunks of its outputs have both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/dtype.h"
#include "kernels/shapes.h"
#include "kernels/weight_format.h"

namespace chorale {

// Shape of a weight matrix; pure arithmetic.
struct WeightLayout {
  WeightFormat format = WeightFormat::bf16;
  int64_t n = 0;  // outputs; gate's alone when fused_pair
  int64_t k = 0;  // inputs
  int64_t n_chunks = 1;
  int64_t k_chunks = 1;
  bool fused_pair = false;
  int64_t group_k = 0;  // inputs of a group; quantized formats alone
  // A slice of inputs lies within the memory of a matrix that has more: from which chunk on, of how many.
  int64_t first_k_chunk = 0;
  int64_t stored_k_chunks = 0;  // 0: no more than its own

  bool splits_n() const { return n_chunks > 1; }
  int64_t num_chunks() const { return n_chunks * k_chunks; }
  int64_t chunk_n() const { return n / n_chunks; }
  int64_t chunk_k() const { return k / k_chunks; }
  int64_t groups_per_chunk() const { return (chunk_k() + group_k - 1) / group_k; }
  int64_t all_k_chunks() const { return stored_k_chunks > 0 ? stored_k_chunks : k_chunks; }
};

// A borrowed matrix, in memory of its device.
struct WeightMatrix {
  WeightLayout layout;
  const std::byte* data = nullptr;
};

// The format of a matrix that is stored in the dtype of the activations, bf16 or f32.
WeightFormat plain_format(DType dtype);

// How many inputs form a group: equal groups of at most 128 for int8 and 64 for int4, and a multiple of
// kGroupUnit. Where the matrix comes from groups of `source_group` inputs (0: it does not), groups that do
// not cross those either; the two must have a common multiple of kGroupUnit. 0 for formats without groups.
inline constexpr int64_t kGroupUnit = 8;
int64_t choose_group(WeightFormat format, int64_t chunk_k, int64_t source_group = 0);

// The layout of a matrix that has `count` of another's canonical chunks and nothing else.
WeightLayout slice_layout(const WeightLayout& layout, int64_t count);

// The layout of `count` of a matrix's canonical chunks, from `first` on, where the matrix lies.
WeightLayout slice_in_place(const WeightLayout& layout, int64_t first, int64_t count);

// A matrix [rows, columns] as it lies in a file: row-major, possibly unaligned.
struct SourceMatrix {
  const std::byte* data = nullptr;
  DType dtype = DType::bf16;  // bf16, f16 or f32
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;  // in elements; 0: tightly packed
};

// Elements that are made or converted as they are needed: read(row, column, count, out) writes `count`
// elements to `out`, of bf16 for a bf16 matrix and else float32, and returns how many are NaN.
using ElementReader = std::function<int64_t(int64_t row, int64_t column, int64_t count, std::byte* out)>;
DType element_dtype(WeightFormat format);  // that an ElementReader writes

// Integers that are kept as they are: read(row, column, count, group) gives the elements of a group of an
// int4 matrix, `count` of them from `column` on.
struct Int4Group {
  float scale = 0;  // exact as float16
  float zero = 0;   // likewise
  uint8_t values[64] = {};
};
using Int4Reader = std::function<void(int64_t row, int64_t column, int64_t count, Int4Group& group)>;

}  // namespace chorale
