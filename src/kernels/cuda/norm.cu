// rms_norm of rows.h, by itself and with the addition before it: a block of threads has a row.
#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/fixed_point.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

// What a block keeps in registers of its row; of a longer one the rest is read twice.
constexpr int kHeldRuns = 2;

struct Run {
  Vector<float, kNormRun> at;
};

// What is added to the residual before its norm.
struct Sums {
  Rows<int64_t> rows;
  const float* bias;  // or null
  bool aligned;
};

__device__ __forceinline__ Run read_run(const float* x, int64_t c, int64_t columns, bool aligned) {
  return {load<kNormRun>(x + c, columns - c, aligned)};
}

// The run after the addition, which the residual and the cleared sums keep.
__device__ __forceinline__ Run add_run(float* x, const Sums& sums, int64_t row, int64_t c, int64_t columns,
                                       bool finite, bool aligned) {
  Run run = read_run(x, c, columns, aligned);
  int64_t* from = sums.rows.row(row) + c;
#pragma unroll
  for (int i = 0; i < kNormRun; i += 2) {
    const int64_t left = columns - c - i;
    if (left <= 0) break;
    const Vector<int64_t, 2> sum = load<2>(from + i, left, sums.aligned);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (j >= left) break;
      run.at.at[i + j] = add_fixed(run.at.at[i + j], sum.at[j],
                                   sums.bias == nullptr ? nullptr : sums.bias + c + i + j, finite);
    }
    store(from + i, Vector<int64_t, 2>{}, left, sums.aligned);
  }
  store(x + c, run.at, columns - c, aligned);
  return run;
}

template <typename Out>
__device__ __forceinline__ void write_run(const Run& run, float scale, const float* weight, Out* out,
                                          int64_t c, int64_t columns, bool aligned) {
  const Vector<float, kNormRun> w = load<kNormRun>(weight + c, columns - c, aligned);
  Vector<Out, kNormRun> y;
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) narrow(w.at[i] * (run.at.at[i] * scale), y.at[i]);
  store(out + c, y, columns - c, aligned);
}

template <typename Out, bool add>
__global__ void __launch_bounds__(kMaxNormThreads)
    norm_kernel(Rows<float> x, Sums sums, const float* weight, float eps, Rows<Out> out, int64_t columns,
                bool aligned) {
  wait_for_previous();
  allow_next();
  const int64_t row = blockIdx.x;
  const int64_t first = int64_t{threadIdx.x} * kNormRun;
  const int64_t step = int64_t{blockDim.x} * kNormRun;
  float* from = x.row(row);
  bool finite = true;
  if constexpr (add) finite = sums.rows.row(row)[columns] == 0;

  Run held[kHeldRuns];
  float squares = 0;
  const auto take = [&](int64_t c) {
    if constexpr (add)
      return add_run(from, sums, row, c, columns, finite, aligned);
    else
      return read_run(from, c, columns, aligned);
  };
  const auto square = [&](const Run& run) {
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) squares = __fmaf_rn(run.at.at[i], run.at.at[i], squares);
  };
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c < columns) {
      held[i] = take(c);
      square(held[i]);
    }
  }
  for (int64_t c = first + kHeldRuns * step; c < columns; c += step) square(take(c));

  // The barrier inside also lets the count of the sums be cleared: all have read it.
  const float scale = inverse_rms(add_over_block(squares), columns, eps);
  if constexpr (add) {
    if (threadIdx.x == 0) sums.rows.row(row)[columns] = 0;
  }
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c < columns) write_run(held[i], scale, weight, out.row(row), c, columns, aligned);
  }
  for (int64_t c = first + kHeldRuns * step; c < columns; c += step)
    write_run(read_run(from, c, columns, aligned), scale, weight, out.row(row), c, columns, aligned);
}

template <bool add>
void norm(const Queue& queue, const char* name, const Tensor& x, const Sums& sums, const Tensor& weight,
          float eps, const Tensor& out) {
  with_activation(out.dtype(), [&](auto element) {
    using Out = decltype(element);
    const bool aligned = rows_aligned(x, kNormRun * sizeof(float)) &&
                         rows_aligned(weight, kNormRun * sizeof(float)) &&
                         rows_aligned(out, kNormRun * sizeof(Out));
    launch(
        queue, name, norm_kernel<Out, add>,
        LaunchShape{dim3(static_cast<unsigned>(x.rows())), static_cast<unsigned>(norm_threads(x.columns()))},
        rows_of<float>(x), sums, weight.data<float>(), eps, rows_of<Out>(out), x.columns(), aligned);
  });
}

}  // namespace

void rms_norm(const Queue& queue, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  norm<false>(queue, "rms_norm", x, Sums{}, weight, eps, out);
}

void add_sums_norm(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const Tensor& weight, float eps, const Tensor& out) {
  const Sums added{rows_of<int64_t>(sums), bias.empty() ? nullptr : bias.data<float>(),
                   rows_aligned(sums, 2 * sizeof(int64_t))};
  norm<true>(queue, "add_sums_norm", residual, added, weight, eps, out);
}

}  // namespace chorale::cuda
