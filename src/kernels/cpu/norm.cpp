// rms_norm (rows.h) and norm_rope (rope.h) on the CPU; norm.inl has their kernels.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/weight.h"

namespace chorale::cpu {

void rms_norm(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  const RmsNormArgs args{.rows = row_args(x, out), .weight = weight.data<float>(), .eps = eps};
  kernels_for(stream.instruction_set()).rms_norm(stream.pool(), args);
}

void norm_rope(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out) {
  const NormRopeArgs args{.rows = row_args(x, out),
                          .weight = weight.data<float>(),
                          .eps = eps,
                          .head_dim = cos_sin.columns(),
                          .cos_sin = cos_sin.data<float>(),
                          .cos_sin_stride = cos_sin.row_stride()};
  kernels_for(stream.instruction_set()).norm_rope(stream.pool(), args);
}

}  // namespace chorale::cpu
