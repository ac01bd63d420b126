// Ops of fixed_point.h.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/fixed_point.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/fixed_point.h"

namespace chorale::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;

LaunchShape shape_for(const Tensor& tensor) {
  return {dim3(static_cast<unsigned>(tensor.rows()), blocks_for(tensor.columns(), kThreads * kPerThread)),
          kThreads};
}

__global__ void __launch_bounds__(kThreads) clear_kernel(Rows<int64_t> sums, int64_t columns, bool aligned) {
  wait_for_previous();
  allow_next();
  const int64_t first = int64_t{blockIdx.y} * kThreads * kPerThread;
#pragma unroll
  for (int i = 0; i < kPerThread / 2; ++i) {
    const int64_t c = first + (i * kThreads + int64_t{threadIdx.x}) * 2;
    store(sums.row(blockIdx.x) + c, Vector<int64_t, 2>{}, columns - c, aligned);
  }
}

__global__ void __launch_bounds__(kThreads) add_kernel(Rows<const int64_t> sums, const float* bias,
                                                       Rows<float> residual, int64_t columns, bool aligned) {
  wait_for_previous();
  allow_next();
  const int64_t* from = sums.row(blockIdx.x);
  float* to = residual.row(blockIdx.x);
  const bool finite = from[columns] == 0;
  const int64_t first = int64_t{blockIdx.y} * kThreads * kPerThread;
#pragma unroll
  for (int i = 0; i < kPerThread / 2; ++i) {
    const int64_t c = first + (i * kThreads + int64_t{threadIdx.x}) * 2;
    if (c >= columns) return;
    const Vector<int64_t, 2> sum = load<2>(from + c, columns - c, aligned);
    Vector<float, 2> value = load<2>(to + c, columns - c, aligned);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (c + j >= columns) break;
      value.at[j] = add_fixed(value.at[j], sum.at[j], bias == nullptr ? nullptr : bias + c + j, finite);
    }
    store(to + c, value, columns - c, aligned);
  }
}

}  // namespace

void clear_sums(const Queue& queue, const Tensor& sums) {
  launch(queue, "clear_sums", clear_kernel, shape_for(sums), rows_of<int64_t>(sums), sums.columns(),
         rows_aligned(sums, 2 * sizeof(int64_t)));
}

void add_sums(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual) {
  launch(queue, "add_sums", add_kernel, shape_for(residual), rows_of<const int64_t>(sums),
         bias.empty() ? nullptr : bias.data<float>(), rows_of<float>(residual), residual.columns(),
         rows_aligned(sums, 2 * sizeof(int64_t)) && rows_aligned(residual, 2 * sizeof(float)));
}

}  // namespace chorale::cuda
