// gated_activation.h on the CPU; gated_activation.inl has its kernels.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"
#include "kernels/cpu/ops.h"

namespace chorale::cpu {

void gated_activation(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) {
  const GatedActivationArgs args{.rows = out.rows(),
                                 .columns = out.columns(),
                                 .gate = to_float_matrix(gate),
                                 .up = to_float_matrix(up),
                                 .out = to_float_matrix(out)};
  kernels_for(stream.instruction_set()).gated_activation(stream.pool(), args);
}

void gated_activation_backward(const Stream& stream, const Tensor& gate, const Tensor& up,
                               const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up) {
  const GatedActivationBackwardArgs args{.rows = d_out.rows(),
                                         .columns = d_out.columns(),
                                         .gate = to_float_matrix(gate),
                                         .up = to_float_matrix(up),
                                         .d_out = to_float_matrix(d_out),
                                         .d_gate = to_float_matrix(d_gate),
                                         .d_up = to_float_matrix(d_up)};
  kernels_for(stream.instruction_set()).gated_activation_backward(stream.pool(), args);
}

}  // namespace chorale::cpu
