#include "kernels/rms_norm_backward.h"

#include "kernels/cpu/ops.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void rms_norm_backward(const Stream& stream, const Tensor& x, const Tensor& weight, float eps,
                       const Tensor& d_out, const Tensor& d_x) {
  check_vector(weight, DType::f32, x.columns(), "weight");
  check_matrix(d_out, DType::f32, x.rows(), x.columns(), "d_out");
  check_matrix(d_x, DType::f32, x.rows(), x.columns(), "d_x");
  CHORALE_CHECK(x.dtype() == DType::f32, "x is {}", name_of(x.dtype()));
  if (x.empty()) return;
  cpu::rms_norm_backward(stream, x, weight, eps, d_out, d_x);
}

}  // namespace chorale
