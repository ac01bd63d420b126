#include "kernels/fixed_point.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void clear_sums(const Stream& stream, const Tensor& sums) {
  const OpScope scope(stream.profile(), "clear_sums");
  CHORALE_CHECK(sums.dtype() == DType::i64);
  backend_of(stream).clear_sums(stream, sums);
}

void add_sums(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual) {
  const OpScope scope(stream.profile(), "add_sums");
  check_matrix(sums, DType::i64, residual.rows(), residual.columns() + 1, "sums");
  if (!bias.empty()) check_vector(bias, DType::f32, residual.columns(), "bias");
  backend_of(stream).add_sums(stream, sums, bias, residual);
}

}  // namespace chorale
