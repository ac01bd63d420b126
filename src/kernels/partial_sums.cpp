#include "kernels/partial_sums.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

void check_partials(const PartialSums& partials, int64_t num_tokens, int64_t outputs) {
  const int64_t rows = partials.counts.empty() ? num_tokens : partials.values.rows();
  check_matrix(partials.values, DType::f32, rows, outputs, "partials");
  if (!partials.counts.empty()) check_vector(partials.counts, DType::i32, num_tokens, "counts");
}

}  // namespace

void add_partials(const Stream& stream, const PartialSums& partials, const Tensor& sums) {
  const OpScope scope(stream.profile(), "add_partials");
  CHORALE_CHECK(sums.dtype() == DType::i64);
  check_partials(partials, sums.rows(), sums.columns() - 1);
  backend_of(stream).add_partials(stream, partials, sums);
}

void add_partials_norm(const Stream& stream, const PartialSums& partials, const Tensor& bias,
                       const Tensor& residual, const NormWeight& norm, const Tensor& out) {
  const OpScope scope(stream.profile(), "add_partials_norm");
  check_partials(partials, residual.rows(), residual.columns());
  if (!bias.empty()) check_vector(bias, DType::f32, residual.columns(), "bias");
  check_vector(norm.weight, DType::f32, residual.columns(), "weight");
  check_matrix(out, out.dtype(), residual.rows(), residual.columns(), "out");
  if (residual.empty()) return;
  backend_of(stream).add_partials_norm(stream, partials, bias, residual, norm, out);
}

}  // namespace chorale
