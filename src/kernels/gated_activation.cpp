#include "kernels/gated_activation.h"

#include "kernels/cpu/ops.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void gated_activation(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) {
  check_matrix(gate, DType::f32, out.rows(), out.columns(), "gate");
  check_matrix(up, DType::f32, out.rows(), out.columns(), "up");
  CHORALE_CHECK(out.dtype() == DType::f32, "out is {}", name_of(out.dtype()));
  if (out.empty()) return;
  cpu::gated_activation(stream, gate, up, out);
}

void gated_activation_backward(const Stream& stream, const Tensor& gate, const Tensor& up,
                               const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up) {
  check_matrix(gate, DType::f32, d_out.rows(), d_out.columns(), "gate");
  check_matrix(up, DType::f32, d_out.rows(), d_out.columns(), "up");
  check_matrix(d_gate, DType::f32, d_out.rows(), d_out.columns(), "d_gate");
  check_matrix(d_up, DType::f32, d_out.rows(), d_out.columns(), "d_up");
  CHORALE_CHECK(d_out.dtype() == DType::f32, "d_out is {}", name_of(d_out.dtype()));
  if (d_out.empty()) return;
  CHORALE_CHECK(d_gate.bytes() != d_up.bytes(), "d_gate and d_up are the same memory");
  cpu::gated_activation_backward(stream, gate, up, d_out, d_gate, d_up);
}

}  // namespace chorale
