// The one glossary of kernels/ and model/: the letters that stand in shapes, and words of one meaning each.
// Also the numbers that the ops' headers share with the kernels of every instruction set.
//
//   T   tokens of a step, of a whole TP group    H   hidden_size
//   U   home tokens of a rank                    Q   num_attention_heads
//   S   rows that a rank sends to experts        KV  num_key_value_heads
//   R   rows that a rank's experts get           D   head_dim
//   L   rows of logits                           V   vocab_size
//   E   experts held here                        I   intermediate size of an expert or dense layer
//   k   experts per token (top_k)                B   KV blocks in the cache
//   M   rows of a product's input                G   inputs of a group
//   N   outputs of a product                     K   inputs of a product
//
// Q, KV, I and E are those of the rank; a router has all experts. "activations" are bf16 in the default mode
// and float32 in the float32 mode; the residual stream, logits and all accumulators are float32 always.
//
//   step      one forward pass (in adam.h: one step of the optimizer)
//   segment   what a step has of one sequence: a part of its prompt, or the token that it decodes
//   chunk     a canonical chunk: the smallest part of a dimension that ranks may split
//   group     neighbouring inputs that share a scale; groups of ranks are called TP group and expert group
//   slot      where a rank holds a physical expert
//   word      4 bytes along K of a row or of one output: two bf16, one float32, four int8, or eight int4
//   panel     kPanelWidth outputs, their words side by side
//   strip     kStripPanels panels, likewise
//
// Constants alone: a function that is not inlined here would be compiled for one instruction set and linked
// into the code of all (see cpu/cpu_kernels.h).
#pragma once

#include <cstdint>

namespace chorale {

// Outputs that one panel of a packed matrix interleaves: one per float32 lane of a 512-bit register.
inline constexpr int64_t kPanelWidth = 16;
inline constexpr int64_t kPanelWordBytes = kPanelWidth * 4;  // one word of each output
inline constexpr int64_t kStripPanels = 4;                   // panels of a strip (cpu/packed_matrix.h)

// A quantized row's group begins with its scale, a float32, and the sum of its integers, an int32
// (quantize.h).
inline constexpr int64_t kGroupHeaderBytes = 8;
// Numbers whose largest magnitude is below this are zeros as int8, in rows and in the KV cache.
inline constexpr float kTinyInt8 = 0x1p-100F;

// Tokens of one KV block of a CPU. Attention merges blocks of this size, aligned to absolute positions, in
// position order, which makes the size part of the numerics contract.
inline constexpr int64_t kKvBlockTokens = 32;
inline constexpr int64_t kMaxHeadDim = 8192;      // what one query row's accumulators have room for
inline constexpr int64_t kMaxInt8HeadDim = 1024;  // what there is room for to widen the keys of a block

// The columns of AttentionBatch::segments (attention.h).
struct SegmentColumn {
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
