// Reference of the tensor core of an NVIDIA Hopper GPU, for products of bf16 that are added up in float32.
//
// One instruction adds 16 products to an accumulator at once: all 17 terms are aligned to the largest
// exponent among them and cut at 25 fractional bits of it, the sum is exact, and it is rounded toward zero to
// float32 (MMA-Sim, arXiv 2511.10909). The result depends on neither the shape of the instruction nor the
// place in it, so whatever kernel multiplies, these are the bits, given blocks of 16 inputs in ascending
// order. This holds for terms of normal range; what the hardware does with subnormal ones is not claimed
// here.
#pragma once

#include <functional>
#include <span>

#include "kernels/ref/attention.h"
#include "kernels/ref/dense.h"
#include "kernels/ref/expert_matmul.h"

namespace chorale::ref {

// accumulator + sum of a[i] * b[i], as one instruction computes it. 16 values of bf16 each, or fewer, which
// stands for zeros behind them.
float tensor_core_add(float accumulator, std::span<const float> a, std::span<const float> b);

// The product of a row of x with a row of weight over the inputs [begin, end): an accumulator that starts at
// zero, blocks of 16 from `begin` on.
float tensor_core_dot(const Matrix& x, int64_t row, const Matrix& weight, int64_t output, int64_t begin,
                      int64_t end);

// x * weight^T (+ bias, added in float32). x: [M, K]; weight: [N, K]; bias: [1, N] or empty.
Matrix tensor_core_matmul(const Matrix& x, const Matrix& weight, const Matrix& bias = {});

// Both products of a gated one, before the activation: gate and up [rows, I].
struct GatePair {
  Matrix gate;
  Matrix up;
};
GatePair tensor_core_gate_pair(const Matrix& x, std::span<const Matrix> gate, std::span<const Matrix> up,
                               std::span<const ExpertRow> rows);

// As order_free_matmul: sums[token] += fixed(weight * product) per row and canonical chunk.
void tensor_core_order_free_matmul(const Matrix& x, std::span<const Matrix> down, int64_t k_chunks,
                                   std::span<const ExpertRow> rows, Dense<int64_t>& sums);

// Values become powers of two, 2^value. The hardware's approximation, which attention uses, is not known to
// the bit, so whoever expects bits asks the hardware.
using Exp2 = std::function<void(std::span<float> values)>;

// As attention, over blocks of 64 tokens at absolute positions. Each block is taken by itself: the maximum of
// the scores times log2(e) / sqrt(D), rounded up to an integer, probabilities 2^(score * log2(e) / sqrt(D) -
// maximum), of which the exponent is rounded once, that are rounded to bf16 for the product with the values,
// and their sum before that. Blocks are merged in their order, which scales by powers of two. The result is
// rounded to bf16.
Matrix tensor_core_attention(const AttentionShape& shape, const Matrix& q, int64_t first_position,
                             const Matrix& keys, const Matrix& values, const Exp2& exp2);

}  // namespace chorale::ref
