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

template <bool aligned>
__global__ void __launch_bounds__(kThreads) clear_kernel(Rows<int64_t> sums, int64_t columns) {
  wait_for_previous();
  allow_next();
  const int64_t first = int64_t{blockIdx.y} * kThreads * kPerThread;
#pragma unroll
  for (int i = 0; i < kPerThread / 2; ++i) {
    const int64_t c = first + (i * kThreads + int64_t{threadIdx.x}) * 2;
    if (c + 1 < columns)
      store<2, aligned>(sums.row(blockIdx.x) + c, Vector<int64_t, 2>{});
    else if (c < columns)
      sums.row(blockIdx.x)[c] = 0;
  }
}

template <bool whole>
__global__ void __launch_bounds__(kThreads)
    add_kernel(Rows<const int64_t> sums, const float* bias, Rows<float> residual, int64_t columns) {
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
    const Vector<int64_t, 2> sum = load<2, whole>(from + c, columns - c);
    Vector<float, 2> value = load<2, whole>(to + c, columns - c);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (!whole && c + j >= columns) break;
      value.at[j] = add_fixed(value.at[j], sum.at[j], bias == nullptr ? nullptr : bias + c + j, finite);
    }
    store<2, whole>(to + c, value, columns - c);
  }
}

}  // namespace

void clear_sums(const Queue& queue, const Tensor& sums) {
  with_flag(rows_aligned(sums, 2), [&](auto aligned) {
    launch(queue, "clear_sums", clear_kernel<aligned()>, shape_for(sums), rows_of<int64_t>(sums),
           sums.columns());
  });
}

void add_sums(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual) {
  const bool is_whole = rows_aligned(sums, 2) && rows_aligned(residual, 2) && residual.columns() % 2 == 0;
  with_flag(is_whole, [&](auto whole) {
    launch(queue, "add_sums", add_kernel<whole()>, shape_for(residual), rows_of<const int64_t>(sums),
           bias.empty() ? nullptr : bias.device_data<float>(), rows_of<float>(residual), residual.columns());
  });
}

}  // namespace chorale::cuda
