// gemm.h on the CPU; gemm.inl has its kernels.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/ops.h"

namespace chorale::cpu {

void pack_rhs(const Stream& stream, const GemmOperand& b, float* packed) {
  const PackRhsArgs args{.b = b.matrix.data<float>(),
                         .b_stride = b.matrix.row_stride(),
                         .is_transposed = b.transposed,
                         .n = b.columns(),
                         .k = b.rows(),
                         .packed = packed};
  kernels_for(stream.instruction_set()).pack_rhs(stream.pool(), args);
}

void gemm(const Stream& stream, const GemmOperand& a, const PackedRhs& b, const Tensor& c, GemmMode mode) {
  if (a.columns() == 0) {
    for (int64_t m = 0; mode == GemmMode::assign && m < c.rows(); ++m)
      std::fill_n(c.row<float>(m), c.columns(), 0.0F);
    return;
  }
  const GemmArgs args{.a = a.matrix.data<float>(),
                      .a_stride = a.matrix.row_stride(),
                      .a_is_transposed = a.transposed,
                      .packed_b = b.data(),
                      .c = c.data<float>(),
                      .c_stride = c.row_stride(),
                      .m = c.rows(),
                      .n = c.columns(),
                      .k = a.columns(),
                      .accumulate = mode == GemmMode::accumulate};
  kernels_for(stream.instruction_set()).gemm(stream.pool(), args);
}

}  // namespace chorale::cpu
