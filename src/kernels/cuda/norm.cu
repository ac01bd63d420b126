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

using Run = Vector<float, kNormRun>;

// What is added to the residual before its norm.
struct Sums {
  Rows<int64_t> rows;
  const float* bias = nullptr;  // or null
  bool aligned = true;          // as whole rows want it
};
// A run of a row: its first column, how many columns are left, and whether the row's sums are finite.
struct RunPlace {
  int64_t row, c, count;
  bool finite;
};
struct SumRun {
  Vector<int64_t, 2> pair[kNormRun / 2];
};

template <bool whole>
__device__ __forceinline__ SumRun read_sums(const int64_t* from, int64_t count) {
  SumRun sums;
#pragma unroll
  for (int i = 0; i < kNormRun / 2; ++i) sums.pair[i] = load<2, whole>(from + 2 * i, count - 2 * i);
  return sums;
}

// Adds the sums to a run of the residual, which keeps the result, and clears them.
template <bool whole>
__device__ __forceinline__ void add_run(Run& run, const SumRun& sum, const Sums& sums, const RunPlace& at,
                                        float* residual) {
  Run bias{};
  if (sums.bias != nullptr) bias = load<kNormRun, whole>(sums.bias + at.c, at.count);
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) {
    if (!whole && i >= at.count) break;
    run.at[i] = add_fixed(run.at[i], sum.pair[i / 2].at[i % 2], sums.bias == nullptr ? nullptr : &bias.at[i],
                          at.finite);
  }
#pragma unroll
  for (int i = 0; i < kNormRun / 2; ++i)
    store<2, whole>(sums.rows.row(at.row) + at.c + 2 * i, Vector<int64_t, 2>{}, at.count - 2 * i);
  store<kNormRun, whole>(residual + at.c, run, at.count);
}

__device__ __forceinline__ float add_squares(const Run& run, float squares) {
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) squares = __fmaf_rn(run.at[i], run.at[i], squares);
  return squares;
}

template <bool whole, typename Out>
__device__ __forceinline__ void write_run(const Run& run, float scale, const Run& weight, Out* out,
                                          int64_t count) {
  Vector<Out, kNormRun> y;
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) narrow(weight.at[i] * (run.at[i] * scale), y.at[i]);
  store<kNormRun, whole>(out, y, count);
}

template <typename Out, bool add, bool whole>
__global__ void __launch_bounds__(kMaxNormThreads)
    norm_kernel(Rows<float> x, Sums sums, const float* weight, float eps, Rows<Out> out, int64_t columns) {
  const int64_t row = blockIdx.x;
  const int64_t first = int64_t{threadIdx.x} * kNormRun;
  const int64_t step = int64_t{blockDim.x} * kNormRun;
  const int64_t beyond = first + kHeldRuns * step;
  float* from = x.row(row);
  Run weights[kHeldRuns];
#pragma unroll
  for (int i = 0; whole && i < kHeldRuns; ++i) {  // there are no registers for them where rows are not whole
    const int64_t c = first + i * step;
    if (c < columns) weights[i] = load<kNormRun, whole>(weight + c, columns - c);
  }
  wait_for_previous();
  allow_next();

  // All loads first: the stores that follow would hold up those of the next run.
  bool finite = true;
  Run held[kHeldRuns];
  SumRun held_sums[kHeldRuns];
  if constexpr (add) finite = sums.rows.row(row)[columns] == 0;
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c >= columns) continue;
    held[i] = load<kNormRun, whole>(from + c, columns - c);
    if constexpr (add) held_sums[i] = read_sums<whole>(sums.rows.row(row) + c, columns - c);
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c >= columns) continue;
    if constexpr (add) add_run<whole>(held[i], held_sums[i], sums, {row, c, columns - c, finite}, from);
    squares = add_squares(held[i], squares);
  }
  for (int64_t c = beyond; c < columns; c += step) {
    Run run = load<kNormRun, whole>(from + c, columns - c);
    if constexpr (add) {
      const SumRun sum = read_sums<whole>(sums.rows.row(row) + c, columns - c);
      add_run<whole>(run, sum, sums, {row, c, columns - c, finite}, from);
    }
    squares = add_squares(run, squares);
  }

  // All have read the count of the sums once the squares are added up.
  const float scale = inverse_rms(add_over_block(squares), columns, eps);
  if constexpr (add) {
    if (threadIdx.x == 0) sums.rows.row(row)[columns] = 0;
  }
  Out* to = out.row(row);
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c >= columns) continue;
    if constexpr (!whole) weights[i] = load<kNormRun, whole>(weight + c, columns - c);
    write_run<whole>(held[i], scale, weights[i], to + c, columns - c);
  }
  for (int64_t c = beyond; c < columns; c += step) {
    const Run run = load<kNormRun, whole>(from + c, columns - c);
    const Run w = load<kNormRun, whole>(weight + c, columns - c);
    write_run<whole>(run, scale, w, to + c, columns - c);
  }
}

template <bool add>
void norm(const Queue& queue, const char* name, const Tensor& x, const Sums& sums, const Tensor& weight,
          float eps, const Tensor& out) {
  const bool is_whole = x.columns() % kNormRun == 0 && rows_aligned(x, kNormRun) && sums.aligned &&
                        rows_aligned(weight, kNormRun) && rows_aligned(out, kNormRun);
  const LaunchShape shape{dim3(static_cast<unsigned>(x.rows())),
                          static_cast<unsigned>(norm_threads(x.columns()))};
  with_activation(out.dtype(), [&](auto element) {
    with_flag(is_whole, [&](auto whole) {
      using Out = decltype(element);
      launch(queue, name, norm_kernel<Out, add, whole()>, shape, rows_of<float>(x), sums,
             weight.device_data<float>(), eps, rows_of<Out>(out), x.columns());
    });
  });
}

}  // namespace

void rms_norm(const Queue& queue, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  norm<false>(queue, "rms_norm", x, Sums{}, weight, eps, out);
}

void add_sums_norm(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const Tensor& weight, float eps, const Tensor& out) {
  const Sums added{rows_of<int64_t>(sums), bias.empty() ? nullptr : bias.device_data<float>(),
                   rows_aligned(sums, 2) && (bias.empty() || rows_aligned(bias, kNormRun))};
  norm<true>(queue, "add_sums_norm", residual, added, weight, eps, out);
}

}  // namespace chorale::cuda
