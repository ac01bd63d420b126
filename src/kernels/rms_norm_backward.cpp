#include "kernels/rms_norm_backward.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void rms_norm_backward(const Stream& stream, const Tensor& x, const Tensor& weight, float eps,
                       const Tensor& d_out, const Tensor& d_x) {
  check_vector(weight, DType::f32, x.columns(), "weight");
  check_matrix(d_out, DType::f32, x.rows(), x.columns(), "d_out");
  check_matrix(d_x, DType::f32, x.rows(), x.columns(), "d_x");
  CHORALE_CHECK(x.dtype() == DType::f32, "x is {}", name_of(x.dtype()));
  if (x.empty()) return;
  const cpu::NormBackwardArgs args{.rows = x.rows(),
                                   .columns = x.columns(),
                                   .x = cpu::to_float_matrix(x),
                                   .d_out = cpu::to_float_matrix(d_out),
                                   .d_x = cpu::to_float_matrix(d_x),
                                   .weight = weight.data<float>(),
                                   .eps = eps};
  cpu::kernels_for(stream.instruction_set()).rms_norm_backward(stream.pool(), args);
}

}  // namespace chorale
