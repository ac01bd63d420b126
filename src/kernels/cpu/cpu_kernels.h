// The kernels that are compiled once per instruction set, as a table of functions over plain memory.
//
// The arguments are raw on purpose: files compiled for AVX-512 must not instantiate shared inline code, which
// the linker could then hand to processors without it (tests/isa_symbols). Constants and functions that are
// always inlined may be shared. Each op's dispatch file checks the tensors, its file in cpu/ unpacks them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/instruction_set.h"
#include "base/thread_pool.h"
#include "kernels/cpu/packed_strides.h"
#include "kernels/weight_format.h"

namespace chorale::cpu {

// Rows of 4-byte words: two bf16, one float32, or four int8 of a quantized row.
struct Rows {
  const std::byte* data;
  int64_t stride_bytes;
  const int32_t* index;  // row m is at index[m] strides; nullptr: at m
};

// A packed matrix as the kernels see it; see WeightLayout.
struct Weight {
  const std::byte* data;
  WeightFormat format;
  int64_t n;            // outputs of a chunk
  int64_t k_words;      // words of a chunk
  int64_t group_words;  // quantized formats: words of a group without its scales
  int64_t k_bytes;      // bytes of a chunk in a row of the input
  int64_t chunks;       // by outputs or by inputs
  int64_t panels;       // in a chunk
  PackedStrides strides;
};

struct MatmulOut {
  Weight weight;
  const float* bias;  // or nullptr
  float* out;
  int64_t out_stride;
};

struct MatmulArgs {
  WeightFormat format;  // all targets have it
  Rows x;
  int64_t m;
  const MatmulOut* targets;
  int64_t num_targets;
};

// What both products of experts read.
struct ExpertArgs {
  const std::byte* x;
  int64_t x_stride_bytes;
  Weight weight;                    // every expert's; its data is not used
  const std::byte* const* experts;  // [E]
  int64_t num_rows;                 // when offsets is nullptr
  const int32_t* offsets;           // [E + 1] or nullptr: one expert takes all rows
  const int32_t* active;            // [E + 1]: how many, then which; or nullptr
  const int32_t* tokens;            // [rows] or nullptr: row = token
};

struct GatedMatmulArgs {
  ExpertArgs in;
  void* out;  // activations [rows, I]
  int64_t out_stride;
  bool out_is_bf16;
};

struct OrderFreeMatmulArgs {
  ExpertArgs in;
  const float* gate_weights;  // [rows] or nullptr: 1
  int64_t* sums;              // [T, N + 1]
  int64_t sums_stride;
  bool assigns;  // the sums are replaced; a token has one row
};

// The rows of a panel, in 4-byte words: at most 16 lanes, the others become zeros.
struct InterleaveArgs {
  const std::byte* rows;
  int64_t row_bytes;
  int64_t lanes;
  int64_t words;
  std::byte* panel;
  int64_t word_stride;  // bytes from one word of the panel to the next
  bool counts_bf16_nan;
};

struct QuantizeArgs {
  const std::byte* x;
  int64_t x_stride_bytes;
  bool x_is_bf16;
  int64_t rows;
  int64_t chunks, chunk_k, group_k;
  std::byte* out;
  int64_t out_stride;  // bytes
};

struct RowArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  void* out;
  int64_t out_stride;
  bool out_is_bf16;
};

struct RmsNormArgs {
  RowArgs rows;
  const float* weight;
  float eps;
};

struct NormRopeArgs {
  RowArgs rows;  // of heads, each of head_dim columns
  const float* weight;
  float eps;
  int64_t head_dim;
  const float* cos_sin;  // [T, head_dim]
  int64_t cos_sin_stride;
};

enum class KvFormat : uint8_t { f32, bf16, i8 };

// One layer's cache, and which of its blocks a step uses.
struct KvArgs {
  KvFormat format;
  int64_t num_kv_heads, head_dim;
  int64_t key_bytes, value_bytes, head_bytes;  // in one block, for one head
  std::byte* cache;
  const int32_t* segments;  // [num_segments, SegmentColumn::count], dense
  int64_t num_segments;
  const int32_t* block_tables;
};

struct AppendKvArgs {
  KvArgs kv;
  const std::byte* k;
  int64_t k_stride_bytes;
  const float* v;
  int64_t v_stride;
};

struct AttentionArgs {
  KvArgs kv;
  int64_t num_heads;
  int64_t longest_segment;
  const std::byte* q;
  int64_t q_stride_bytes;
  void* out;
  int64_t out_stride;
};

// gemm.h. The packed right operand's blocks of K are the backend's own affair.
struct GemmArgs {
  const float* a;
  int64_t a_stride;
  bool a_is_transposed;
  const float* packed_b;
  float* c;
  int64_t c_stride;
  int64_t m, n, k;
  bool accumulate;
};

struct PackRhsArgs {
  const float* b;
  int64_t b_stride;
  bool is_transposed;
  int64_t n, k;
  float* packed;  // n rounded up to panels, times k
};

// A float32 matrix that an op reads or writes.
struct FloatMatrix {
  float* data;
  int64_t stride;
};

struct GatedActivationArgs {
  int64_t rows, columns;
  FloatMatrix gate, up;
  FloatMatrix out;
};

struct GatedActivationBackwardArgs {
  int64_t rows, columns;
  FloatMatrix gate, up;
  FloatMatrix d_out, d_gate, d_up;
};

struct NormBackwardArgs {
  int64_t rows, columns;
  FloatMatrix x, d_out, d_x;
  const float* weight;
  float eps;
};

struct AdamArgs {
  int64_t rows, columns;
  FloatMatrix parameters, gradient, first_moment, second_moment;
  float beta1, beta2, epsilon;
  float step_size;     // the learning rate over the first moment's correction
  float second_scale;  // 1 over the second moment's correction
};

struct CpuKernels {
  void (*matmul)(ThreadPool&, const MatmulArgs&);
  void (*gated_matmul)(ThreadPool&, const GatedMatmulArgs&);
  void (*order_free_matmul)(ThreadPool&, const OrderFreeMatmulArgs&);
  int64_t (*interleave)(const InterleaveArgs&);  // returns how many are NaN
  void (*quantize_rows)(ThreadPool&, const QuantizeArgs&);
  void (*rms_norm)(ThreadPool&, const RmsNormArgs&);
  void (*norm_rope)(ThreadPool&, const NormRopeArgs&);
  void (*append_kv)(ThreadPool&, const AppendKvArgs&);
  void (*attention)(ThreadPool&, const AttentionArgs&);
  void (*pack_rhs)(ThreadPool&, const PackRhsArgs&);
  void (*gemm)(ThreadPool&, const GemmArgs&);
  void (*gated_activation)(ThreadPool&, const GatedActivationArgs&);
  void (*gated_activation_backward)(ThreadPool&, const GatedActivationBackwardArgs&);
  void (*softmax_rows)(ThreadPool&, FloatMatrix, int64_t rows, int64_t columns);
  void (*rms_norm_backward)(ThreadPool&, const NormBackwardArgs&);
  void (*adam_step)(ThreadPool&, const AdamArgs&);
};

const CpuKernels& kernels_for(InstructionSet isa);

}  // namespace chorale::cpu
