// How weights and the KV cache lie in the memory of the reference device: row by row, as one would write them
// down. Pure arithmetic.
//
//   weights    [chunk of outputs][gate, then up, where it is a fused pair][output][K of all stored chunks]
//   KV block   [KV][keys [64, D], values [64, D]]
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/attention.h"
#include "kernels/weight_matrix.h"

namespace chorale::ref_device {

struct RowMajor : WeightLayout {
  explicit RowMajor(const WeightLayout& layout) : WeightLayout(layout) {}

  int64_t halves() const { return fused_pair ? 2 : 1; }
  int64_t stored_columns() const { return all_k_chunks() * chunk_k(); }
  int64_t first_column() const { return first_k_chunk * chunk_k(); }
  // Where the row of an output of gate (half 0) or up (1) lies.
  int64_t stored_row(int64_t output, int half) const {
    const int64_t chunk = output / chunk_n();
    return (chunk * halves() + half) * chunk_n() + output % chunk_n();
  }
  int64_t row_bytes() const {
    return stored_columns() * static_cast<int64_t>(size_of(element_dtype(format)));
  }
  int64_t output_chunk_bytes() const { return halves() * chunk_n() * row_bytes(); }
  int64_t bytes() const {  // a slice counts its own
    return halves() * n * k * static_cast<int64_t>(size_of(element_dtype(format)));
  }
};

struct KvRows : KvLayout {
  static constexpr int64_t kTokens = 64;  // of a block

  explicit KvRows(const KvLayout& layout) : KvLayout(layout) {}

  int64_t token_bytes() const { return head_dim * static_cast<int64_t>(size_of(dtype)); }
  int64_t block_bytes() const { return num_kv_heads * 2 * kTokens * token_bytes(); }
  // Of a token's head; part 0 is its key, 1 its value.
  int64_t offset(int64_t block, int64_t head, int part, int64_t token) const {
    return block * block_bytes() + ((head * 2 + part) * kTokens + token) * token_bytes();
  }
};

}  // namespace chorale::ref_device
