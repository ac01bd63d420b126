// Reference of kernels/expert_matmul.h.
#pragma once

#include <span>
#include <vector>

#include "kernels/ref/dense.h"

namespace chorale::ref {

// One (token, expert) pair.
struct ExpertRow {
  int64_t token = 0;
  int64_t expert = 0;
  float weight = 1;
};

double silu(double x);

// out[r] = silu(x[token] * gate^T) * (x[token] * up^T) with the matrices of rows[r].expert. x: [T, H]; gate,
// up: [I, H] per expert; out: [rows, I].
Dense<double> gated_matmul(const Matrix& x, std::span<const Matrix> gate, std::span<const Matrix> up,
                           std::span<const ExpertRow> rows);

// sums[token] += fixed(weight * (x[r] * W_chunk^T)) for every row and each of k_chunks equal ranges of K. The
// product with the gate weight is a float32 product, as in the op. x: [rows, K]; down: [N, K] per expert;
// sums: [T, N + 1].
void order_free_matmul(const Matrix& x, std::span<const Matrix> down, int64_t k_chunks,
                       std::span<const ExpertRow> rows, Dense<int64_t>& sums);

// The partial sums of the same product in one chunk: weight * (x[r] * W^T) in float32 [rows, N].
Matrix order_free_partials(const Matrix& x, std::span<const Matrix> down, std::span<const ExpertRow> rows);

}  // namespace chorale::ref
