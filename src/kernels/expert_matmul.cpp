#include "kernels/expert_matmul.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/weight.h"
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

cpu::ExpertArgs to_args(const Tensor& x, const ExpertMatrices& experts, const ExpertRows& rows) {
  const bool sorted = !rows.all_tokens();
  return {.x = cpu::bytes_of(x),
          .x_stride_bytes = cpu::stride_bytes(x),
          .weight = cpu::to_weight(experts.layout, nullptr),
          .experts = experts.data.data(),
          .num_rows = x.rows(),
          .offsets = sorted ? rows.offsets.data<int32_t>() : nullptr,
          .active = sorted ? rows.active.data<int32_t>() : nullptr,
          .tokens = sorted ? rows.tokens.data<int32_t>() : nullptr};
}

void add_work(OpScope& scope, const Tensor& x, const ExpertMatrices& experts, const ExpertRows& rows) {
  const PackedLayout& layout = experts.layout;
  const bool sorted = !rows.all_tokens();
  const int64_t active = sorted ? rows.active.data<int32_t>()[0] : 1;
  const int64_t pairs = sorted ? rows.offsets.data<int32_t>()[experts.data.size()] : x.rows();
  const int64_t halves = layout.fused_pair ? 2 : 1;
  scope.add_work(static_cast<double>(active * layout.bytes()),
                 2.0 * static_cast<double>(pairs * halves * layout.n * layout.k));
}

}  // namespace

void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out) {
  OpScope scope(stream.profile(), "gated_matmul");
  const PackedLayout& layout = gate_up.layout;
  CHORALE_CHECK(layout.fused_pair && layout.k_chunks == 1);
  check_input(x, layout);
  CHORALE_CHECK(is_activation(out.dtype()) && out.columns() == layout.n);
  CHORALE_CHECK(is_quantized(layout.format) || out.dtype() == x.dtype());
  check_rows(gate_up, rows);
  if (x.empty()) return;
  if (scope.is_recording()) add_work(scope, x, gate_up, rows);
  const cpu::GatedMatmulArgs args{.in = to_args(x, gate_up, rows),
                                  .out = cpu::mutable_bytes_of(out),
                                  .out_stride = out.row_stride(),
                                  .out_is_bf16 = out.dtype() == DType::bf16};
  cpu::kernels_for(stream.instruction_set()).gated_matmul(stream.pool(), args);
}

void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode) {
  OpScope scope(stream.profile(), "order_free_matmul");
  const PackedLayout& layout = down.layout;
  CHORALE_CHECK(!layout.fused_pair && layout.n_chunks == 1);
  check_input(x, layout);
  CHORALE_CHECK(sums.dtype() == DType::i64 && sums.columns() == layout.n + 1);
  check_rows(down, rows);
  CHORALE_CHECK(mode == SumMode::add || rows.all_tokens());
  if (x.empty()) return;
  if (scope.is_recording()) add_work(scope, x, down, rows);
  const cpu::OrderFreeMatmulArgs args{
      .in = to_args(x, down, rows),
      .gate_weights = rows.all_tokens() ? nullptr : rows.weights.data<float>(),
      .sums = sums.data<int64_t>(),
      .sums_stride = sums.row_stride(),
      .assigns = mode == SumMode::assign};
  cpu::kernels_for(stream.instruction_set()).order_free_matmul(stream.pool(), args);
}

}  // namespace chorale
