// How far the strips of a packed matrix lie apart (packed_matrix.h), for what packs them and for the kernels.
#pragma once

#include <cstdint>

namespace chorale {

// Bytes. A matrix is cut by its outputs or by its inputs: the chunks of outputs follow each other, and those
// of inputs lie side by side in each strip.
struct PackedStrides {
  int64_t chunk;           // from a chunk of outputs to the next; 0 of a matrix that is cut by its inputs
  int64_t strip;           // from a strip to the next, of one chunk of outputs
  int64_t panel_of_chunk;  // a strip's chunk of inputs has as many of these as panels; 0 without such chunks
  int64_t first_chunk;     // of inputs: which of a strip's chunks is the matrix's first

  // Where strip `strip_index` of a chunk begins, from the start of the matrix. Always inlined, so that no
  // instruction set's code is another's.
  [[gnu::always_inline]] constexpr int64_t offset(int64_t chunk_index, int64_t strip_index,
                                                  int64_t strip_width) const {
    return chunk_index * chunk + strip_index * strip +
           (first_chunk + chunk_index) * strip_width * panel_of_chunk;
  }
};

}  // namespace chorale
