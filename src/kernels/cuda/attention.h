// Causal attention on a Hopper GPU: the op of kernels/attention.h over a cache of layout.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/runtime.h"

namespace chorale::cuda {

// Elements of the scratch that attention needs for block tables of so many blocks; may be 0.
int64_t attention_scratch_floats(const KvTiles& tiles, int64_t table_blocks);

// As attention of kernels/attention.h; blocks hold kKvTokens tokens, and chunks lie in the order of their
// first_block. D is even and at most kMaxHeadDim; 16, 32, 64, 96 and 128 have fast kernels. q and out have
// the cache's dtype. scratch: float32 [1, at least attention_scratch_floats]; its contents are of no account
// before and after.
//
// A row's bits depend on its position and the cache alone. In bf16 they are those of tensor_core_attention in
// kernels/ref/tensor_core.h with this exp2_approximate. Float32 is for checking: the same blocks of tokens
// and the same merging, with sums of fused multiply-adds in ascending order, by a kernel that is plain and
// slow.
void attention(const Queue& queue, const Tensor& q, const KvTilesView& cache, const AttentionBatch& batch,
               int64_t num_heads, const Tensor& scratch, const Tensor& out);

// values = 2^values as the hardware approximates it for probabilities, so that tests can expect their bits.
// float32.
void exp2_approximate(const Queue& queue, const Tensor& values);

}  // namespace chorale::cuda
