// The one glossary of dimension names; every op's header uses these.
//
//   T   tokens of a step                       H   hidden_size
//   Q   num_attention_heads                    KV  num_key_value_heads
//   D   head_dim                               G   Q / KV, query heads that share one key/value head
//   E   experts held here                      k   experts per token (top_k)
//   I   intermediate size of an expert or dense layer
//   V   vocab_size                             M   rows of a matmul's input
//   N   outputs of a matmul                    K   inputs of a matmul
//   B   KV blocks in the cache
//
// "activations" are bf16 in the default mode and float32 in the float32 mode; the residual stream, logits and
// all accumulators are float32 always.
#pragma once

#include <cstdint>

namespace chorale {

// Outputs that one panel of a packed matrix interleaves: one per float32 lane of a 512-bit register.
inline constexpr int64_t kPanelWidth = 16;

// Tokens of one KV block. Attention merges blocks of this size, aligned to absolute positions, in position
// order, which makes the size part of the numerics contract.
inline constexpr int64_t kKvBlockTokens = 32;

}  // namespace chorale
