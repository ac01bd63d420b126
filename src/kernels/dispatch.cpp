#include "kernels/dispatch.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

Tensor RowFormat::activations(const Tensor& rows) const {
  const int64_t stride = bytes() / static_cast<int64_t>(size_of(act));
  return Tensor(rows.device_bytes(), act, rows.rows(), hidden, stride, rows.device());
}

ChosenExperts RowFormat::chosen(const Tensor& rows) const {
  const int64_t stride = bytes() / 4;
  return {
      Tensor(rows.device_bytes() + slots_offset(), DType::i32, rows.rows(), top_k, stride, rows.device()),
      Tensor(rows.device_bytes() + weights_offset(), DType::f32, rows.rows(), top_k, stride, rows.device())};
}

void dispatch_rows(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send) {
  check_matrix(x, format.act, x.rows(), format.hidden, "x");
  check_matrix(chosen.experts, DType::i32, x.rows(), format.top_k, "chosen experts");
  check_matrix(chosen.weights, DType::f32, x.rows(), format.top_k, "chosen weights");
  CHORALE_CHECK(table.slots.dtype() == DType::i32 && table.slots.rows() >= 1);
  check_vector(send.counts, DType::i64, table.num_owners * table.copies, "counts");
  const Tensor& scratch = send.owner_tokens;
  CHORALE_CHECK(scratch.dtype() == DType::i32 && scratch.rows() >= table.num_owners &&
                scratch.columns() >= x.rows());
  CHORALE_CHECK(send.rows.dtype() == DType::u8 && send.rows.row_stride() == format.bytes());
  backend_of(stream).dispatch_rows(stream, x, chosen, table, format, send);
}

void add_returned(const Stream& stream, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums) {
  check_matrix(returned, DType::i64, returned.rows(), sums.columns(), "returned");
  check_vector(tokens, DType::i32, returned.rows(), "tokens");
  check_vector(counts, DType::i64, counts.columns(), "counts");
  CHORALE_CHECK(sums.dtype() == DType::i64);
  backend_of(stream).add_returned(stream, returned, tokens, counts, sums);
}

void count_experts(const Stream& stream, const Tensor& experts, const Tensor& counts) {
  CHORALE_CHECK(experts.dtype() == DType::i32 && counts.dtype() == DType::i64 && counts.rows() == 1);
  backend_of(stream).count_experts(stream, experts, counts);
}

void count_tokens(const Stream& stream, int64_t num_tokens, const Tensor& counts) {
  CHORALE_CHECK(counts.dtype() == DType::i64 && counts.size() >= 1);
  backend_of(stream).count_tokens(stream, num_tokens, counts);
}

}  // namespace chorale
