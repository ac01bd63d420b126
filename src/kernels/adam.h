// One step of Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1).
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

struct AdamOptions {
  float learning_rate = 1e-3F;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float epsilon = 1e-8F;
  int64_t step = 1;  // the first is 1; corrects the bias of moments that began at zero
};

// With g the gradient, m and v the moments, both zero before step 1:
//   m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
//   parameters -= learning_rate * m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon)
// All float32 of one shape; all but the gradient are updated.
void adam_step(const Stream& stream, const Tensor& parameters, const Tensor& gradient,
               const Tensor& first_moment, const Tensor& second_moment, const AdamOptions& options);

}  // namespace chorale
