// softmax.h on the CPU; softmax.inl has its kernel.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"
#include "kernels/cpu/ops.h"

namespace chorale::cpu {

void softmax_rows(const Stream& stream, const Tensor& logits) {
  kernels_for(stream.instruction_set())
      .softmax_rows(stream.pool(), to_float_matrix(logits), logits.rows(), logits.columns());
}

}  // namespace chorale::cpu
