// Causal attention over a paged KV cache, and the op that writes the cache.
//
// Keys and values lie in the cache in the panel form of packed matrices, so that both products of attention
// are the same matmul tiles as everywhere else. Per block of kKvBlockTokens tokens and per KV head (bf16; in
// float32 a pair becomes one element):
//
//   keys    [2 panels of 16 tokens][D / 2][16][2]      outputs are tokens, K runs over D
//   values  [ceil(D / 16) panels][16 pairs][16][2]     outputs are dimensions, K runs over the block's tokens
//
// Blocks are walked in order of position with a running maximum and sum (online softmax, arXiv 1805.02867),
// so a token's result depends on its own position and the cache alone: not on chunk size, batch or cache
// hits. The one exception: a value that is NaN or infinite also reaches the earlier tokens of its block that
// are attended for in the same step.
#pragma once

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/shapes.h"

namespace chorale {

inline constexpr int64_t kMaxHeadDim = 8192;  // what one query row's accumulators have room for

// Shape of one layer's cache; pure arithmetic.
struct KvLayout {
  DType dtype = DType::bf16;  // bf16 or f32
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  // Elements of one head's keys, and values, in one block.
  int64_t key_elements() const { return kKvBlockTokens * head_dim; }
  int64_t value_elements() const {
    return (head_dim + kPanelWidth - 1) / kPanelWidth * kPanelWidth * kKvBlockTokens;
  }
  int64_t block_bytes() const {  // keys and values of all heads
    return num_kv_heads * (key_elements() + value_elements()) * static_cast<int64_t>(size_of(dtype));
  }
};

// One layer's cache: [B][KV][keys, values], bytes.
struct KvCacheView {
  KvLayout layout;
  std::byte* data = nullptr;
  int64_t num_blocks = 0;
};

// What attention has to know of a step, in device memory. The columns of `chunks`, one row per sequence
// chunk:
struct ChunkColumn {
  static constexpr int64_t first_token = 0;     // index of its first token in the step
  static constexpr int64_t num_tokens = 1;      // new tokens
  static constexpr int64_t first_position = 2;  // absolute position of the first of them
  static constexpr int64_t first_block = 3;     // where its block table starts in block_tables
  static constexpr int64_t count = 4;
};
struct AttentionBatch {
  Tensor chunks;              // int32 [chunks, ChunkColumn::count]
  Tensor block_tables;        // int32 [1, blocks]
  int64_t longest_chunk = 0;  // the largest num_tokens, known on the host
};

// Writes the step's keys and values. k: activations [T, KV * D]; v: float32 [T, KV * D], rounded to the
// cache's dtype. The first token of a block clears the block's values, so that what an earlier owner left
// there, NaN included, cannot reach this one.
void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache);

// out = softmax(scale * q k^T) v for each token over the tokens at or before its position. q, out:
// activations [T, Q * D]; num_heads = Q, a multiple of the cache's KV heads.
void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               int64_t num_heads, const Tensor& out);

}  // namespace chorale
