// References of the norms in float32, with the order of sums of kernels/cuda/norm_order.h: the very bits that
// a GPU gives, but for the rounding to an activation.
#pragma once

#include "kernels/ref/dense.h"

namespace chorale::ref {

// x: [T, H]; weight: [1, H].
Matrix rms_norm_in_order(const Matrix& x, const Matrix& weight, float eps);

// x: [T, heads * D]; weight: [1, D]; cos_sin: [T, D].
Matrix norm_rope_in_order(const Matrix& x, const Matrix& weight, float eps, const Matrix& cos_sin);

}  // namespace chorale::ref
