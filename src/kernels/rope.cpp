#include "kernels/rope.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void rope_table(const Stream& stream, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin) {
  const OpScope scope(stream.profile(), "rope_table");
  check_matrix(positions, DType::i32, 1, cos_sin.rows(), "positions");
  check_vector(frequencies, DType::f32, cos_sin.columns() / 2, "frequencies");
  CHORALE_CHECK(cos_sin.dtype() == DType::f32 && cos_sin.columns() % 2 == 0);
  backend_of(stream).rope_table(stream, positions, frequencies, scale, cos_sin);
}

void norm_rope(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out) {
  const OpScope scope(stream.profile(), "norm_rope");
  const int64_t head_dim = cos_sin.columns();
  check_vector(weight, DType::f32, head_dim, "weight");
  check_matrix(cos_sin, DType::f32, x.rows(), head_dim, "cos_sin");
  CHORALE_CHECK(x.dtype() == DType::f32 && is_activation(out.dtype()) && x.columns() % head_dim == 0);
  check_matrix(out, out.dtype(), x.rows(), x.columns(), "out");
  if (x.empty()) return;
  backend_of(stream).norm_rope(stream, x, weight, eps, cos_sin, out);
}

}  // namespace chorale
