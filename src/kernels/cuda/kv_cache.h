// A GPU's paged KV cache, and the ops that write it.
#pragma once

#include <cstddef>

#include "kernels/attention.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/runtime.h"

namespace chorale::cuda {

// One layer's cache in device memory, [num_blocks] blocks as KvTiles says. Block tables hold blocks of
// kKvTokens tokens.
struct KvTilesView {
  KvTiles tiles;
  std::byte* data = nullptr;
  int64_t num_blocks = 0;
};

// As append_kv of attention.h. k: [T, KV * D] of the cache's dtype; v: float32 [T, KV * D], rounded to it.
// The chunks of the batch are in order of their tokens. The first token of a block clears the values of those
// behind it that are not written in the same step; keys beyond a sequence's last token are not defined.
void append_kv(const Queue& queue, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvTilesView& cache);

// norm_rope of q and of k, and append_kv, in one kernel; the same bits as these three. q_out: bf16 [T, Q *
// D]; the cache is of bf16.
void norm_rope_append(const Queue& queue, const QkvRows& rows, const HeadNorms& norms, const Tensor& q_out,
                      const AttentionBatch& batch, const KvTilesView& cache);

}  // namespace chorale::cuda
