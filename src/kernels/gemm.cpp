#include "kernels/gemm.h"

#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

int64_t rows_of(const GemmOperand& operand) {
  return operand.transposed ? operand.matrix.columns() : operand.matrix.rows();
}
int64_t columns_of(const GemmOperand& operand) {
  return operand.transposed ? operand.matrix.rows() : operand.matrix.columns();
}

}  // namespace

void pack_rhs(const Stream& stream, const GemmOperand& b, PackedRhs& packed) {
  CHORALE_CHECK(b.matrix.dtype() == DType::f32, "B is {}", name_of(b.matrix.dtype()));
  packed.k_ = rows_of(b);
  packed.n_ = columns_of(b);
  if (b.matrix.empty()) return;
  const int64_t lanes = (packed.n_ + kPanelWidth - 1) / kPanelWidth * kPanelWidth;
  const size_t bytes = static_cast<size_t>(packed.k_ * lanes) * sizeof(float);
  if (packed.buffer_.size() < bytes) packed.buffer_ = Buffer(bytes);
  const cpu::PackRhsArgs args{.b = b.matrix.data<float>(),
                              .b_stride = b.matrix.row_stride(),
                              .is_transposed = b.transposed,
                              .n = packed.n_,
                              .k = packed.k_,
                              .packed = reinterpret_cast<float*>(packed.buffer_.data())};
  cpu::kernels_for(stream.instruction_set()).pack_rhs(stream.pool(), args);
}

void gemm(const Stream& stream, const GemmOperand& a, const PackedRhs& b, const Tensor& c, GemmMode mode) {
  const int64_t k = columns_of(a);
  CHORALE_CHECK(a.matrix.dtype() == DType::f32 && b.k() == k, "A: {} [{}, {}], B: [{}, {}]",
                name_of(a.matrix.dtype()), rows_of(a), k, b.k(), b.n());
  check_matrix(c, DType::f32, rows_of(a), b.n(), "C");
  if (c.empty()) return;
  if (k == 0) {
    for (int64_t m = 0; mode == GemmMode::assign && m < c.rows(); ++m)
      std::fill_n(c.row<float>(m), c.columns(), 0.0F);
    return;
  }
  const cpu::GemmArgs args{.a = a.matrix.data<float>(),
                           .a_stride = a.matrix.row_stride(),
                           .a_is_transposed = a.transposed,
                           .packed_b = b.data(),
                           .c = c.data<float>(),
                           .c_stride = c.row_stride(),
                           .m = c.rows(),
                           .n = c.columns(),
                           .k = k,
                           .accumulate = mode == GemmMode::accumulate};
  cpu::kernels_for(stream.instruction_set()).gemm(stream.pool(), args);
}

void gemm(const Stream& stream, const GemmOperand& a, const GemmOperand& b, const Tensor& c, GemmMode mode,
          GemmScratch& scratch) {
  pack_rhs(stream, b, scratch.rhs_);
  gemm(stream, a, scratch.rhs_, c, mode);
}

}  // namespace chorale
