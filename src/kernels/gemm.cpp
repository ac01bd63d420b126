#include "kernels/gemm.h"

#include "kernels/cpu/ops.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void pack_rhs(const Stream& stream, const GemmOperand& b, PackedRhs& packed) {
  CHORALE_CHECK(b.matrix.dtype() == DType::f32, "B is {}", name_of(b.matrix.dtype()));
  packed.k_ = b.rows();
  packed.n_ = b.columns();
  if (b.matrix.empty()) return;
  const int64_t lanes = (packed.n_ + kPanelWidth - 1) / kPanelWidth * kPanelWidth;
  const size_t bytes = static_cast<size_t>(packed.k_ * lanes) * sizeof(float);
  if (packed.buffer_.size() < bytes) packed.buffer_ = Buffer(bytes);
  cpu::pack_rhs(stream, b, reinterpret_cast<float*>(packed.buffer_.data()));
}

void gemm(const Stream& stream, const GemmOperand& a, const PackedRhs& b, const Tensor& c, GemmMode mode) {
  const int64_t k = a.columns();
  CHORALE_CHECK(a.matrix.dtype() == DType::f32 && b.k() == k, "A: {} [{}, {}], B: [{}, {}]",
                name_of(a.matrix.dtype()), a.rows(), k, b.k(), b.n());
  check_matrix(c, DType::f32, a.rows(), b.n(), "C");
  if (c.empty()) return;
  cpu::gemm(stream, a, b, c, mode);
}

void gemm(const Stream& stream, const GemmOperand& a, const GemmOperand& b, const Tensor& c, GemmMode mode,
          GemmScratch& scratch) {
  pack_rhs(stream, b, scratch.rhs_);
  gemm(stream, a, scratch.rhs_, c, mode);
}

}  // namespace chorale
