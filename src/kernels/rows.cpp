#include "kernels/rows.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void embed(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out) {
  const OpScope scope(stream.profile(), "embed");
  check_matrix(ids, DType::i32, 1, out.rows(), "ids");
  CHORALE_CHECK(is_activation(table.dtype()) && out.dtype() == DType::f32 &&
                table.columns() == out.columns());
  backend_of(stream).embed(stream, ids, table, out);
}

void embed_bits(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits) {
  check_matrix(ids, DType::i32, 1, bits.rows(), "ids");
  check_matrix(bits, DType::i64, bits.rows(), table.columns() + 1, "bits");
  CHORALE_CHECK(is_activation(table.dtype()));
  backend_of(stream).embed_bits(stream, ids, table, first_row, bits);
}

void bits_to_rows(const Stream& stream, const Tensor& bits, const Tensor& out) {
  check_matrix(bits, DType::i64, out.rows(), out.columns() + 1, "bits");
  CHORALE_CHECK(out.dtype() == DType::f32);
  backend_of(stream).bits_to_rows(stream, bits, out);
}

void copy_rows(const Stream& stream, const Tensor& x, const Tensor& out) {
  check_matrix(x, DType::f32, out.rows(), out.columns(), "x");
  CHORALE_CHECK(out.dtype() == DType::f32);
  backend_of(stream).copy_rows(stream, x, out);
}

void gather_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out) {
  const OpScope scope(stream.profile(), "gather_rows");
  check_matrix(rows, DType::i32, 1, out.rows(), "rows");
  CHORALE_CHECK(x.dtype() == DType::f32 && out.dtype() == DType::f32 && x.columns() == out.columns());
  backend_of(stream).gather_rows(stream, rows, x, out);
}

void rms_norm(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  const OpScope scope(stream.profile(), "rms_norm");
  check_vector(weight, DType::f32, x.columns(), "weight");
  CHORALE_CHECK(x.dtype() == DType::f32 && is_activation(out.dtype()));
  check_matrix(out, out.dtype(), x.rows(), x.columns(), "out");
  if (x.empty()) return;
  backend_of(stream).rms_norm(stream, x, weight, eps, out);
}

}  // namespace chorale
