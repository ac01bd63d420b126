// Rotary position embeddings (arXiv 2104.09864), with the per-head norm of Qwen3's queries and keys.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// cos_sin[t] = { scale * cos(p * f), scale * sin(p * f) } for the token's position p and every frequency f.
// positions: int32 [1, T]; frequencies: float32 [1, D / 2]; cos_sin: float32 [T, D], cosines first. Once per
// step.
void rope_table(const Stream& stream, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin);

// Normalises each head by RMS over D, multiplies by weight, rotates the halves. x: float32 [T, heads * D];
// weight: float32 [1, D]; out: activations [T, heads * D].
void norm_rope(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out);

}  // namespace chorale
