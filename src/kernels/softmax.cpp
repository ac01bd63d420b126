#include "kernels/softmax.h"

#include "kernels/cpu/ops.h"

namespace chorale {

void softmax_rows(const Stream& stream, const Tensor& logits) {
  CHORALE_CHECK(logits.dtype() == DType::f32, "logits are {}", name_of(logits.dtype()));
  if (logits.empty()) return;
  cpu::softmax_rows(stream, logits);
}

}  // namespace chorale
