// The one glossary of dimension names, which every op's header uses, and the numbers that these headers share
// with the kernels of every instruction set.
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
// Constants alone: a function that is not inlined here would be compiled for one instruction set and linked
// into the code of all (see cpu/cpu_kernels.h).
#pragma once

#include <cstdint>

namespace chorale {

// Outputs that one panel of a packed matrix interleaves: one per float32 lane of a 512-bit register.
inline constexpr int64_t kPanelWidth = 16;
inline constexpr int64_t kStepBytes = kPanelWidth * 4;  // of one panel
inline constexpr int64_t kStripPanels = 4;              // panels of a strip (packed_matrix.h)

// A quantized row's group begins with its scale, a float32, and the sum of its integers, an int32
// (quantize.h).
inline constexpr int64_t kGroupHeaderBytes = 8;
// Numbers whose largest magnitude is below this are zeros as int8, in rows and in the KV cache.
inline constexpr float kTinyInt8 = 0x1p-100F;

// Tokens of one KV block. Attention merges blocks of this size, aligned to absolute positions, in position
// order, which makes the size part of the numerics contract.
inline constexpr int64_t kKvBlockTokens = 32;
inline constexpr int64_t kMaxHeadDim = 8192;      // what one query row's accumulators have room for
inline constexpr int64_t kMaxInt8HeadDim = 1024;  // what there is room for to widen the keys of a block

// The columns of AttentionBatch::chunks (attention.h), one row per sequence chunk.
struct ChunkColumn {
  static constexpr int64_t first_token = 0;     // index of its first token in the step
  static constexpr int64_t num_tokens = 1;      // new tokens
  static constexpr int64_t first_position = 2;  // absolute position of the first of them
  static constexpr int64_t first_block = 3;     // where its block table starts in block_tables
  static constexpr int64_t count = 4;
};

// Order-free sums (fixed_point.h): the integer of 1, and the magnitude at which a partial sum saturates.
inline constexpr float kFixedOne = 0x1p36F;
inline constexpr float kFixedSaturation = 0x1p18F;

}  // namespace chorale
