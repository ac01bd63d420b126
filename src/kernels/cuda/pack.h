// Packs matrices on the host into the form that a GPU reads (layout.h).
#pragma once

#include "kernels/cuda/layout.h"
#include "kernels/weight_matrix.h"

namespace chorale::cuda {

// Packs the tiles of 64 stored rows [first_tile, first_tile + count) of source [N, K] to where they lie in
// the matrix that begins at `target`, rounding to bf16. For a fused pair, `half` 0 is gate and 1 is up, and
// each writes its own rows; otherwise it is 0. What is beyond the matrix becomes zero. Returns how many
// source elements are NaN. Tiles do not overlap: call it for ranges of them from any thread.
int64_t pack_tiles(const SourceMatrix& source, const TiledLayout& layout, std::byte* target,
                   int64_t first_tile, int64_t count, int half = 0);

// All tiles.
int64_t pack(const SourceMatrix& source, const TiledLayout& layout, std::byte* target, int half = 0);

}  // namespace chorale::cuda
