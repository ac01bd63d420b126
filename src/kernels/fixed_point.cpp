#include "kernels/fixed_point.h"

#include "kernels/backend.h"
#include "kernels/rows.h"
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

void add_sums_norm(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const NormWeight& norm, const Tensor& out) {
  const Backend& backend = backend_of(stream);
  if (backend.add_sums_norm == nullptr) {
    add_sums(stream, sums, bias, residual);
    return rms_norm(stream, residual, norm.weight, norm.eps, out);
  }
  const OpScope scope(stream.profile(), "add_sums_norm");
  check_matrix(sums, DType::i64, residual.rows(), residual.columns() + 1, "sums");
  if (!bias.empty()) check_vector(bias, DType::f32, residual.columns(), "bias");
  check_vector(norm.weight, DType::f32, residual.columns(), "weight");
  check_matrix(out, out.dtype(), residual.rows(), residual.columns(), "out");
  if (residual.empty()) return;
  backend.add_sums_norm(stream, sums, bias, residual, norm, out);
}

}  // namespace chorale
