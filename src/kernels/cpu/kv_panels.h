// The KV cache as a CPU has it.
//
// Keys and values lie in the cache in the panel form of packed matrices, so that both products of attention
// are the same matmul tiles as everywhere else. Per block of kKvBlockTokens tokens and per KV head (bf16; in
// float32 a pair becomes one element):
//
//   keys    [2 panels of 16 tokens][D / 2][16][2]      outputs are tokens, K runs over D
//   values  [ceil(D / 16) panels][16 pairs][16][2]     outputs are dimensions, K runs over the block's tokens
//
// An int8 cache holds the same panels of int8, and after them
//
//   key scales, value scales   [32] each, float32      of the block's tokens
//
// bf16 has every int8 value: attention widens a few panels at a time into the first-level cache and
// multiplies them as those of a bf16 cache.
#pragma once

#include "kernels/attention.h"

namespace chorale::cpu {

// One layer's cache: [B][KV][keys, values, scales]; pure arithmetic. Bytes are those of one head in one block
// where nothing else is said, and multiples of 64, because head_dim is even.
struct KvPanels : KvLayout {
  explicit KvPanels(const KvLayout& layout) : KvLayout(layout) {}

  int64_t key_bytes() const { return kKvBlockTokens * head_dim * element(); }
  int64_t value_bytes() const {
    return (head_dim + kPanelWidth - 1) / kPanelWidth * kPanelWidth * kKvBlockTokens * element();
  }
  int64_t scale_bytes() const {  // for keys and values
    return has_scales() ? 2 * kKvBlockTokens * static_cast<int64_t>(sizeof(float)) : 0;
  }
  int64_t head_bytes() const { return key_bytes() + value_bytes() + scale_bytes(); }
  int64_t block_bytes() const { return num_kv_heads * head_bytes(); }  // for all heads

 private:
  int64_t element() const { return static_cast<int64_t>(size_of(dtype)); }
};

}  // namespace chorale::cpu
