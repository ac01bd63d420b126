// expert_matmul.h on the CPU; expert_matmul.inl has its kernels.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/weight.h"

namespace chorale::cpu {
namespace {

ExpertArgs expert_args(const Tensor& x, const ExpertMatrices& experts, const ExpertRows& rows) {
  const bool sorted = !rows.all_tokens();
  return {.x = bytes_of(x),
          .x_stride_bytes = stride_bytes(x),
          .weight = to_weight(experts.layout, nullptr),
          .experts = experts.data.data(),
          .num_rows = x.rows(),
          .offsets = sorted ? rows.offsets.data<int32_t>() : nullptr,
          .active = sorted ? rows.active.data<int32_t>() : nullptr,
          .tokens = sorted ? rows.tokens.data<int32_t>() : nullptr};
}

}  // namespace

void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out) {
  const GatedMatmulArgs args{.in = expert_args(x, gate_up, rows),
                             .out = mutable_bytes_of(out),
                             .out_stride = out.row_stride(),
                             .out_is_bf16 = out.dtype() == DType::bf16};
  kernels_for(stream.instruction_set()).gated_matmul(stream.pool(), args);
}

void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode) {
  const OrderFreeMatmulArgs args{.in = expert_args(x, down, rows),
                                 .gate_weights = rows.all_tokens() ? nullptr : rows.weights.data<float>(),
                                 .sums = sums.data<int64_t>(),
                                 .sums_stride = sums.row_stride(),
                                 .assigns = mode == SumMode::assign};
  kernels_for(stream.instruction_set()).order_free_matmul(stream.pool(), args);
}

}  // namespace chorale::cpu
