// Ops that move or normalise rows.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// out[t] = table[ids[t]]. ids: int32 [1, T]; table: bf16 or float32 [V, H]; out: float32 [T, H].
void embed(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out);

// For an embedding of which every rank has some rows: bits[t][h] = the bits of float32 table[ids[t] -
// first_row][h] as an unsigned integer, 0 where the id is not in the table. Over the ranks the bits add up to
// those of the row. table: bf16 or float32 [., H]; bits: int64 [T, H + 1], the last column 0.
void embed_bits(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits);
// out: float32 [T, H].
void bits_to_rows(const Stream& stream, const Tensor& bits, const Tensor& out);

// out = x. float32 [M, N].
void copy_rows(const Stream& stream, const Tensor& x, const Tensor& out);

// out[m] = x[rows[m]]. rows: int32 [1, M]; x: float32 [T, H]; out: float32 [M, H].
void gather_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out);

// out = x / sqrt(mean(x^2) + eps) * weight (RMSNorm, arXiv 1910.07467). x: float32 [T, H]; weight: float32
// [1, H]; out: activations or float32 [T, H].
void rms_norm(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out);

}  // namespace chorale
