// The ops on the CPU, as the dispatch files call them: arguments have been checked, and are not empty where
// the op is one of those that return early. Each has the meaning that its header in kernels/ gives.
//
// Ops that multiply turn their tensors into the plain arguments of cpu_kernels.h, for the stream's
// instruction set. The others are compiled once: they move or count more than they multiply, so wider
// registers would not help.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/dispatch.h"
#include "kernels/expert_matmul.h"
#include "kernels/gemm.h"
#include "kernels/matmul.h"
#include "kernels/route.h"
#include "kernels/sample.h"
#include "kernels/weight_matrix.h"

namespace chorale::cpu {

void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets);
void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out);
void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode);
void quantize_rows(const Stream& stream, const Tensor& x, const WeightLayout& layout, const Tensor& out);

void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache);
void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               const Tensor& scratch, const Tensor& out);
void rope_table(const Stream& stream, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin);
void norm_rope(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out);

void rms_norm(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out);
void embed(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out);
void embed_bits(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits);
void bits_to_rows(const Stream& stream, const Tensor& bits, const Tensor& out);
void copy_rows(const Stream& stream, const Tensor& x, const Tensor& out);
void gather_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out);

void clear_sums(const Stream& stream, const Tensor& sums);
void add_sums(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual);

void choose_experts(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen);
void sort_by_expert(const Stream& stream, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts);

void dispatch_rows(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send);
void add_returned(const Stream& stream, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums);
void count_experts(const Stream& stream, const Tensor& experts, const Tensor& counts);
void count_tokens(const Stream& stream, int64_t num_tokens, const Tensor& counts);

// packed: room for the operand's K times its columns rounded up to panels.
void pack_rhs(const Stream& stream, const GemmOperand& b, float* packed);
void gemm(const Stream& stream, const GemmOperand& a, const PackedRhs& b, const Tensor& c, GemmMode mode);
void gated_activation(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out);
void gated_activation_backward(const Stream& stream, const Tensor& gate, const Tensor& up,
                               const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up);
void softmax_rows(const Stream& stream, const Tensor& logits);
void rms_norm_backward(const Stream& stream, const Tensor& x, const Tensor& weight, float eps,
                       const Tensor& d_out, const Tensor& d_x);
void adam_step(const Stream& stream, const Tensor& parameters, const Tensor& gradient,
               const Tensor& first_moment, const Tensor& second_moment, const AdamOptions& options);

int64_t sample_scratch_bytes(int64_t vocab_size);
void sample(const Stream& stream, const SampleRows& input, const Tensor& scratch, const SampledRows& output);
void place_tokens(const Stream& stream, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids);
void clear_counts(const Stream& stream, const Tensor& counts);
void count_tokens(const Stream& stream, const Tensor& tokens, bool in_prompt, const Tensor& counts);

}  // namespace chorale::cpu
