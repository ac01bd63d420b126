// The gradient of rms_norm (rows.h), for fitting weights.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// d_x, the gradient with respect to x, given d_out, that with respect to the output. With r = 1 /
// sqrt(mean(x^2) + eps), z = x * r and dz = d_out * weight:
//   d_x = r * (dz - z * mean(dz * z))
// weight: float32 [1, H]; the others: float32 [T, H]. d_x may be the memory of x or of d_out.
void rms_norm_backward(const Stream& stream, const Tensor& x, const Tensor& weight, float eps,
                       const Tensor& d_out, const Tensor& d_x);

}  // namespace chorale
