// The ops on the reference device: the references of kernels/ref, given to a queue. Arguments have been
// checked by the dispatch files. Each has the meaning that its header in kernels/ gives; a row's result
// depends on that row alone, because the references work row by row.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/backend.h"

namespace chorale::ref_device {

void pack_rows(const Stream& stream, const Tensor& rows, const WeightLayout& layout, std::byte* target,
               const MatrixRegion& region);
void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets);
void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out);
void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode);
int64_t partials_scratch(const WeightLayout& down, int64_t rows, int64_t num_tokens);
PartialSums order_free_partials(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                                const ExpertRows& rows, int64_t num_tokens);
void add_partials(const Stream& stream, const PartialSums& partials, const Tensor& sums);
void add_partials_norm(const Stream& stream, const PartialSums& partials, const Tensor& bias,
                       const Tensor& residual, const NormWeight& norm, const Tensor& out);

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

void sample(const Stream& stream, const SampleRows& input, const Tensor& scratch, const SampledRows& output);
void place_tokens(const Stream& stream, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids);
void clear_counts(const Stream& stream, const Tensor& counts);
void count_tokens(const Stream& stream, const Tensor& tokens, bool in_prompt, const Tensor& counts);

}  // namespace chorale::ref_device
