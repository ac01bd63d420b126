// Ops that move or normalise rows.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// out[t] = table[ids[t]]. ids: int32 [1, T]; table: bf16 or float32 [V, H]; out: float32 [T, H].
void embed(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out);

// out[m] = x[rows[m]]. rows: int32 [1, M]; x: float32 [T, H]; out: float32 [M, H].
void gather_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out);

// out = x / sqrt(mean(x^2) + eps) * weight (RMSNorm, arXiv 1910.07467). x: float32 [T, H]; weight: float32
// [1, H]; out: activations or float32 [T, H].
void rms_norm(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out);

}  // namespace chorale
