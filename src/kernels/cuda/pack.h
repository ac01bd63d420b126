// Packs matrices into the form that a GPU reads (layout.h): on the host, or rows that the GPU has.
#pragma once

#include "base/tensor.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/runtime.h"
#include "kernels/weight_matrix.h"

namespace chorale::cuda {

// Packs the tiles of 64 stored rows [first_tile, first_tile + count) of source [N, K] to where they lie in
// the matrix that begins at `target`, converting to its dtype. For a fused pair, `half` 0 is gate and 1 is
// up, and each writes its own rows; otherwise it is 0. What is beyond the matrix becomes zero. Returns how
// many source elements are NaN. Tiles do not overlap: call it for ranges of them from any thread.
int64_t pack_tiles(const SourceMatrix& source, const TiledLayout& layout, std::byte* target,
                   int64_t first_tile, int64_t count, int half = 0);

// All tiles.
int64_t pack(const SourceMatrix& source, const TiledLayout& layout, std::byte* target, int half = 0);

// A part of a matrix: outputs from first_row on, inputs from first_column on; `half` as above.
struct PackRegion {
  int64_t first_row = 0;
  int64_t first_column = 0;
  int half = 0;
};

// Packs rows in device memory, bf16 or float32, to where they lie in the matrix that begins at `target`,
// likewise. What is beyond the matrix is left as it is, zeros in memory that is new. The same bytes as
// pack(), but for those of NaN that is rounded.
void pack_rows(const Queue& queue, const Tensor& rows, const TiledLayout& layout, std::byte* target,
               const PackRegion& region = {});

}  // namespace chorale::cuda
