#include "kernels/softmax.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"

namespace chorale {

void softmax_rows(const Stream& stream, const Tensor& logits) {
  CHORALE_CHECK(logits.dtype() == DType::f32, "logits are {}", name_of(logits.dtype()));
  if (logits.empty()) return;
  cpu::kernels_for(stream.instruction_set())
      .softmax_rows(stream.pool(), cpu::to_float_matrix(logits), logits.rows(), logits.columns());
}

}  // namespace chorale
