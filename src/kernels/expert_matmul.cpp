#include "kernels/expert_matmul.h"

#include "base/copy.h"
#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

void check_rows(const ExpertMatrices& experts, const ExpertRows& rows) {
  const auto num_experts = static_cast<int64_t>(experts.data.size());
  if (rows.all_tokens()) {
    CHORALE_CHECK(num_experts == 1, "{} experts without rows", num_experts);
    return;
  }
  check_matrix(rows.offsets, DType::i32, 1, num_experts + 1, "offsets");
  check_matrix(rows.active, DType::i32, 1, num_experts + 1, "active");
}

void add_work(OpScope& scope, const Stream& stream, const Tensor& x, const ExpertMatrices& experts,
              const ExpertRows& rows) {
  const WeightLayout& layout = experts.layout;
  const bool sorted = !rows.all_tokens();
  const auto element = [&](const Tensor& vector, int64_t i) -> int64_t {
    return download<int32_t>(stream, vector.first_columns(i + 1)).back();
  };
  const int64_t active = sorted ? element(rows.active, 0) : 1;
  const int64_t pairs = sorted ? element(rows.offsets, std::ssize(experts.data)) : x.rows();
  const int64_t halves = layout.fused_pair ? 2 : 1;
  scope.add_work(static_cast<double>(active * backend_of(stream).weight_bytes(layout)),
                 2.0 * static_cast<double>(pairs * halves * layout.n * layout.k));
  scope.begin_again();
}

}  // namespace

void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out) {
  OpScope scope(stream.profile(), "gated_matmul");
  const WeightLayout& layout = gate_up.layout;
  CHORALE_CHECK(layout.fused_pair && layout.k_chunks == 1);
  check_input(x, layout);
  CHORALE_CHECK(is_activation(out.dtype()) && out.columns() == layout.n);
  CHORALE_CHECK(is_quantized(layout.format) || out.dtype() == x.dtype());
  check_rows(gate_up, rows);
  if (x.empty()) return;
  if (scope.is_recording()) add_work(scope, stream, x, gate_up, rows);
  backend_of(stream).gated_matmul(stream, x, gate_up, rows, out);
}

void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode) {
  OpScope scope(stream.profile(), "order_free_matmul");
  const WeightLayout& layout = down.layout;
  CHORALE_CHECK(!layout.fused_pair && layout.n_chunks == 1);
  check_input(x, layout);
  CHORALE_CHECK(sums.dtype() == DType::i64 && sums.columns() == layout.n + 1);
  check_rows(down, rows);
  CHORALE_CHECK(mode != SumMode::assign || rows.all_tokens());
  if (x.empty()) return;
  if (scope.is_recording()) add_work(scope, stream, x, down, rows);
  backend_of(stream).order_free_matmul(stream, x, down, rows, sums, mode);
}

PartialSums order_free_partials(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                                const ExpertRows& rows, int64_t num_tokens) {
  const Backend& backend = backend_of(stream);
  if (backend.order_free_partials == nullptr || rows.scratch.empty() || x.empty()) return {};
  OpScope scope(stream.profile(), "order_free_partials");
  CHORALE_CHECK(!down.layout.fused_pair && down.layout.n_chunks == 1);
  check_input(x, down.layout);
  check_rows(down, rows);
  CHORALE_CHECK(!rows.all_tokens() || num_tokens == x.rows());
  if (scope.is_recording()) add_work(scope, stream, x, down, rows);
  PartialSums partials = backend.order_free_partials(stream, x, down, rows, num_tokens);
  if (partials.empty()) scope.cancel();
  return partials;
}

}  // namespace chorale
