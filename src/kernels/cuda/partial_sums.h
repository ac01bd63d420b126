// The ops of kernels/partial_sums.h, with a queue in place of the stream.
#pragma once

#include "kernels/cuda/runtime.h"
#include "kernels/expert_matmul.h"

namespace chorale::cuda {

// float32 elements of memory for the partial sums of so many rows, and for the lists of rows of so many
// tokens.
int64_t partials_scratch_floats(int64_t rows, int64_t num_tokens, int64_t outputs);

// Whether add_partials_norm has a kernel for so many outputs.
bool adds_partials(int64_t outputs);

// Partial sums in rows.scratch that the product has still to write, with the lists of each token's rows,
// which are written. num_rows: of the product.
PartialSums make_partials(const Queue& queue, const ExpertRows& rows, int64_t num_rows, int64_t num_tokens,
                          int64_t outputs);

// sums: int64 [T, N + 1]; what becomes of those that are there is the mode's to say.
void add_partials(const Queue& queue, const PartialSums& partials, const Tensor& sums, SumMode mode);

void add_partials_norm(const Queue& queue, const PartialSums& partials, const Tensor& bias,
                       const Tensor& residual, const NormWeight& norm, const Tensor& out);

}  // namespace chorale::cuda
