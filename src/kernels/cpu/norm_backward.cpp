// rms_norm_backward.h on the CPU; norm_backward.inl has its kernel.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"
#include "kernels/cpu/ops.h"

namespace chorale::cpu {

void rms_norm_backward(const Stream& stream, const Tensor& x, const Tensor& weight, float eps,
                       const Tensor& d_out, const Tensor& d_x) {
  const NormBackwardArgs args{.rows = x.rows(),
                              .columns = x.columns(),
                              .x = to_float_matrix(x),
                              .d_out = to_float_matrix(d_out),
                              .d_x = to_float_matrix(d_x),
                              .weight = weight.data<float>(),
                              .eps = eps};
  kernels_for(stream.instruction_set()).rms_norm_backward(stream.pool(), args);
}

}  // namespace chorale::cpu
