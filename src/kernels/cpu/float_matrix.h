// From float32 tensors to the matrices that the CPU kernels see.
#pragma once

#include "base/tensor.h"
#include "kernels/cpu/cpu_kernels.h"

namespace chorale::cpu {

inline FloatMatrix to_float_matrix(const Tensor& t) {
  return {.data = t.data<float>(), .stride = t.row_stride()};
}

}  // namespace chorale::cpu
