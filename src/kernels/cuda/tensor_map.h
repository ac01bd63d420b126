// Descriptions of matrices from which the copy engine fetches boxes of rows by 64 columns of bf16, into the
// 128-byte swizzle of layout.h.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/cuda/runtime.h"

namespace chorale::cuda {

// CUDA's own CUtensorMap, which kernels take by value.
struct alignas(128) TensorMap {
  uint64_t words[16] = {};
};

// matrix: bf16, its address and row stride multiples of 16 bytes.
TensorMap make_tensor_map(const Queue& queue, const Tensor& matrix, int box_rows);

}  // namespace chorale::cuda
