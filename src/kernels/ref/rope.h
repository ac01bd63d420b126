// Reference of kernels/rope.h.
#pragma once

#include <span>

#include "kernels/ref/dense.h"

namespace chorale::ref {

// Row t: scale * cos(p * f) for every frequency f, then scale * sin(p * f), with p = positions[t]. The angle
// p * f is a float32, as in transformers.
Dense<double> rope_table(std::span<const int32_t> positions, std::span<const float> frequencies, float scale);

// RMSNorm over each head, then rotation of its pairs (i, i + D / 2). x: [T, heads * D]; weight: [1, D];
// cos_sin: [T, D].
Dense<double> norm_rope(const Matrix& x, const Matrix& weight, float eps, const Matrix& cos_sin);

}  // namespace chorale::ref
