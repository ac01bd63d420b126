// Matrix products of the experts: rows are sorted by expert, and each expert's are multiplied by its matrix.
// A dense layer is the case of one expert that takes every row.
#pragma once

#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/partial_sums.h"
#include "kernels/weight_matrix.h"

namespace chorale {

// One matrix per expert held here, all of one shape; `data[e]` is where expert e's begins. Two may be the
// same matrix.
struct ExpertMatrices {
  WeightLayout layout;
  std::span<const std::byte* const> data;  // [E]
};

// The (token, expert) pairs of a step, sorted by expert and within an expert by token. Default-constructed:
// one expert takes all tokens with weight 1.
struct ExpertRows {
  Tensor offsets;  // int32 [1, E + 1]: rows of expert e are [offsets[e], offsets[e + 1])
  Tensor active;   // int32 [1, E + 1]: the number of experts that have rows, then their indices, ascending
  Tensor tokens;   // int32 [1, T * k]: the token of each row
  Tensor weights;  // float32 [1, T * k]: its gate weight
  // float32 [1, Backend::partials_scratch], or empty: memory for partial sums.
  Tensor scratch{};
  bool all_tokens() const { return offsets.empty(); }
};

// In both, x has the dtype of the matrices, or rows that are quantized for them (quantize.h).
//
// out[row] = silu(x[token] * gate^T) * (x[token] * up^T). x: activations [T, H]; gate_up: a fused pair [I, H]
// per expert; out: activations [T * k, I].
void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out);

// add_to_zeros: the sums have been cleared, as they must be for `add`.
enum class SumMode { add, add_to_zeros, assign };

// sums[token] += fixed(weight * (x[row] * W_chunk^T)) for every canonical chunk of K: the order-free product
// (see fixed_point.h). x: activations [T * k, K]; down: a matrix [N, K] per expert; sums: int64 [T, N + 1],
// which need not be cleared before `assign`; that is for one expert that takes all tokens.
void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode = SumMode::add);

// The partial sums of the same product, for T = num_tokens tokens, in rows.scratch, until that is used again.
// Empty where the backend does better to add them up at once; nothing has been done then.
PartialSums order_free_partials(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                                const ExpertRows& rows, int64_t num_tokens);

}  // namespace chorale
