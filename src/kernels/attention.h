// Causal attention over a paged KV cache, and the op that writes the cache.
//
// A block has Backend::kv_block_tokens tokens of all KV heads; how they lie in it is the backend's own affair
// (cpu/kv_panels.h, cuda/layout.h). Of an int8 cache a token's head is x = value * scale with scale = amax /
// 127, where amax is the largest |x| of the head, so a token never touches what is kept of another. A score
// is multiplied by the key's scale times 1 / sqrt(D), and a probability by the value's scale before it is
// rounded to bf16.
//
// Blocks are walked in order of position with a running maximum and sum (online softmax, arXiv 1805.02867),
// so a token's result depends on its own position and the cache alone: not on segments, batch or cache
// hits. The one exception: a value that is NaN or infinite may also reach the earlier tokens of its block
// that are attended for in the same step; of an int8 cache it does not.
#pragma once

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/shapes.h"

namespace chorale {

// Shape of one layer's cache.
struct KvLayout {
  DType dtype = DType::bf16;  // bf16, f32, or i8
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;

  bool has_scales() const { return dtype == DType::i8; }
  // q, k and the output have it.
  DType activation_dtype() const { return has_scales() ? DType::bf16 : dtype; }
  int64_t max_head_dim() const { return has_scales() ? kMaxInt8HeadDim : kMaxHeadDim; }
};

// One layer's cache of B blocks, in memory of its device.
struct KvCacheView {
  KvLayout layout;
  std::byte* data = nullptr;
  int64_t num_blocks = 0;
};

// What attention has to know of a step, in device memory.
struct AttentionBatch {
  Tensor segments;              // int32 [segments, SegmentColumn::count]
  Tensor block_tables;          // int32 [1, blocks]
  int64_t longest_segment = 0;  // the largest num_tokens, known on the host
};

// Writes the step's keys and values. k: activations [T, KV * D]; v: float32 [T, KV * D], rounded to the
// cache's dtype. The first token of a block clears the block's values and scales, so that what an earlier
// owner left there, NaN included, cannot reach this one.
//
// int8: value = x * (127 / amax) rounded to nearest even. A head below 2^-100 becomes zeros with scale 0; one
// with NaN or infinity becomes zeros with scale NaN, and so is seen wherever the token is.
void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache);

// What the projections made of a step's tokens: float32, q [T, Q * D], k and v [T, KV * D].
struct QkvRows {
  Tensor q, k, v;
};
// What norm_rope (rope.h) takes.
struct HeadNorms {
  Tensor q_weight, k_weight;  // float32 [1, D]
  float eps = 0;
  Tensor cos_sin;  // float32 [T, D]
};
// Activations. k is scratch, where a backend takes several kernels.
struct RotatedRows {
  Tensor q, k;
};

// norm_rope of q and of k, and append_kv of the rotated k and of v.
void norm_rope_append(const Stream& stream, const QkvRows& rows, const HeadNorms& norms,
                      const RotatedRows& rotated, const AttentionBatch& batch, const KvCacheView& cache);

// out = softmax(scale * q k^T) v for each token over the tokens at or before its position. q, out:
// activations [T, Q * D], where Q is a multiple of the cache's KV heads; scratch: float32 [1, at least
// Backend::attention_scratch], or empty where that is 0.
void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               const Tensor& scratch, const Tensor& out);

}  // namespace chorale
