// Causal attention on a Hopper GPU: the op of kernels/attention.h over a cache of layout.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/runtime.h"

namespace chorale::cuda {

// Elements of the scratch that attention needs for block tables of so many blocks.
int64_t attention_scratch_floats(const KvTiles& tiles, int64_t table_blocks);

// As attention of kernels/attention.h; blocks hold kKvTokens tokens, and chunks lie in the order of their
// first_block. D is 16, 32, 64, 96 or 128. scratch: float32 [1, at least attention_scratch_floats]; its
// contents are of no account before and after. The bits are those of tensor_core_attention in
// kernels/ref/tensor_core.h: a row's depend on its position and the cache alone.
void attention(const Queue& queue, const Tensor& q, const KvTilesView& cache, const AttentionBatch& batch,
               int64_t num_heads, const Tensor& scratch, const Tensor& out);

}  // namespace chorale::cuda
