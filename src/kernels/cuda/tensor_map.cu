#include <cstring>

#include <cudaTypedefs.h>

#include "kernels/cuda/tensor_map.h"

namespace chorale::cuda {
namespace {

// A function of the driver, which the program is not linked to, so that it starts where there is none.
PFN_cuTensorMapEncodeTiled_v12000 encode_function(const Queue& queue) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "cudaGetDriverEntryPointByVersion", queue.index());
  CHORALE_CHECK(function != nullptr && found == cudaDriverEntryPointSuccess);
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

TensorMap make_tensor_map(const Queue& queue, const Tensor& matrix, int box_rows) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(matrix.columns()),
                              static_cast<cuuint64_t>(matrix.rows())};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(matrix.row_stride()) * 2};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encode_function(queue)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, matrix.device_bytes(), sizes, strides,
                             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHORALE_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: {}", static_cast<int>(result));
  TensorMap copy;
  std::memcpy(copy.words, &map, sizeof copy);
  return copy;
}

}  // namespace chorale::cuda
