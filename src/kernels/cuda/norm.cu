// rms_norm of rows.h, by itself and with the addition before it: a block of threads has a row.
#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/fixed_point.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

// What a block keeps in registers of its row; of a longer one the rest is read twice.
constexpr int kHeldRuns = 2;
using Run = FloatRun;

// What is added to the residual before its norm, if anything.
enum class Added { nothing, sums, partials, own_partials };  // the last: a row of partial sums for each token

// A row of partial sums is held whole. Adding them up takes registers, and many blocks at once, since each
// waits for a list before it can ask for what it adds up.
constexpr int kMaxPartialThreads = 512;
constexpr int kFewPartialThreads = 256;
constexpr int most_threads(Added added, int threads) {
  return added == Added::partials ? threads : kMaxNormThreads;
}
constexpr int least_blocks(Added added, int threads) {
  return added == Added::partials ? 3 * kFewPartialThreads / threads : 1;
}

struct Addend {
  Rows<int64_t> sums{};
  PartialArgs partials{};
  const float* bias = nullptr;  // or null
  bool aligned = true;          // as whole rows want it
};
// A run of a row: its first column, how many columns are left, and whether the row's sums are finite.
struct RunPlace {
  int64_t row, c, count;
  bool finite;
};

template <bool whole>
__device__ __forceinline__ RunSums read_sums(const int64_t* from, int64_t count) {
  RunSums sums;
#pragma unroll
  for (int i = 0; i < kNormRun; i += 2) {
    const Vector<int64_t, 2> pair = load<2, whole>(from + i, count - i);
    sums.at[i] = pair.at[0];
    sums.at[i + 1] = pair.at[1];
  }
  return sums;
}

// Adds the sums to a run of the residual, which keeps the result, and clears them where they are in memory.
template <bool whole, Added added>
__device__ __forceinline__ void add_run(Run& run, const RunSums& sum, const Addend& addend,
                                        const RunPlace& at, float* residual) {
  Run bias{};
  if (addend.bias != nullptr) bias = load<kNormRun, whole>(addend.bias + at.c, at.count);
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) {
    if (!whole && i >= at.count) break;
    run.at[i] = add_fixed(run.at[i], sum.at[i], addend.bias == nullptr ? nullptr : &bias.at[i], at.finite);
  }
#pragma unroll
  for (int i = 0; added == Added::sums && i < kNormRun; i += 2)
    store<2, whole>(addend.sums.row(at.row) + at.c + i, Vector<int64_t, 2>{}, at.count - i);
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

// threads: of a block with partial sums, at most.
template <typename Out, Added added, bool whole, int threads = kMaxPartialThreads>
__global__ void __launch_bounds__(most_threads(added, threads), least_blocks(added, threads))
    norm_kernel(Rows<float> x, Addend addend, const float* weight, float eps, Rows<Out> out,
                int64_t columns) {
  constexpr bool adds = added != Added::nothing, has_list = added == Added::partials;
  constexpr bool has_partials = has_list || added == Added::own_partials;
  const int64_t row = blockIdx.x;
  const int64_t first = int64_t{threadIdx.x} * kNormRun;
  const int64_t step = int64_t{blockDim.x} * kNormRun;
  const int64_t beyond = first + kHeldRuns * step;
  float* from = x.row(row);
  Run weights[kHeldRuns];
#pragma unroll
  for (int i = 0; whole && !has_list && i < kHeldRuns; ++i) {  // where there are registers for them
    const int64_t c = first + i * step;
    if (c < columns) weights[i] = load<kNormRun, whole>(weight + c, columns - c);
  }
  wait_for_previous();
  allow_next();

  // All loads first: the stores that follow would hold up those of the next run.
  bool finite = true;
  Run held[kHeldRuns];
  RunSums held_sums[kHeldRuns];
  if constexpr (added == Added::sums) finite = addend.sums.row(row)[columns] == 0;
  __shared__ int32_t shared[has_list ? kMaxRoutedTopK : 1];
  TokenRows rows{};
  if constexpr (has_list) rows = TokenRows::of(addend.partials, row, shared);
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c >= columns) continue;
    held[i] = load<kNormRun, whole>(from + c, columns - c);
    if constexpr (added == Added::sums)
      held_sums[i] = read_sums<whole>(addend.sums.row(row) + c, columns - c);
    if constexpr (has_list) held_sums[i] = rows.sums_of<whole>(addend.partials, c, columns - c);
    if constexpr (added == Added::own_partials) {
      const float* own = addend.partials.values + row * addend.partials.stride + c;
      const FloatRun run[1] = {load<kNormRun, whole>(own, columns - c)};
      held_sums[i].add(run);
    }
  }
  // Of all columns, which a row of partial sums has in registers (adds_partials).
  if constexpr (has_partials) {
    int not_finite = 0;
#pragma unroll
    for (const RunSums& sums : held_sums) not_finite += sums.not_finite;
    finite = __syncthreads_or(not_finite) == 0;
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c >= columns) continue;
    if constexpr (adds)
      add_run<whole, added>(held[i], held_sums[i], addend, {row, c, columns - c, finite}, from);
    squares = add_squares(held[i], squares);
  }
  for (int64_t c = beyond; c < columns; c += step) {
    Run run = load<kNormRun, whole>(from + c, columns - c);
    if constexpr (added == Added::sums) {
      const RunSums sum = read_sums<whole>(addend.sums.row(row) + c, columns - c);
      add_run<whole, added>(run, sum, addend, {row, c, columns - c, finite}, from);
    }
    squares = add_squares(run, squares);
  }

  // All have read the count of the sums once the squares are added up.
  const float scale = inverse_rms(add_over_block(squares), columns, eps);
  if constexpr (added == Added::sums) {
    if (threadIdx.x == 0) addend.sums.row(row)[columns] = 0;
  }
  Out* to = out.row(row);
#pragma unroll
  for (int i = 0; i < kHeldRuns; ++i) {
    const int64_t c = first + i * step;
    if (c >= columns) continue;
    if constexpr (!whole || has_list) weights[i] = load<kNormRun, whole>(weight + c, columns - c);
    write_run<whole>(held[i], scale, weights[i], to + c, columns - c);
  }
  for (int64_t c = beyond; c < columns; c += step) {
    const Run run = load<kNormRun, whole>(from + c, columns - c);
    const Run w = load<kNormRun, whole>(weight + c, columns - c);
    write_run<whole>(run, scale, w, to + c, columns - c);
  }
}

template <Added added>
void norm(const Queue& queue, const char* name, const Tensor& x, const Addend& addend, const NormWeight& norm,
          const Tensor& out) {
  const bool is_whole = x.columns() % kNormRun == 0 && rows_aligned(x, kNormRun) && addend.aligned &&
                        rows_aligned(norm.weight, kNormRun) && rows_aligned(out, kNormRun);
  const LaunchShape shape{dim3(static_cast<unsigned>(x.rows())),
                          static_cast<unsigned>(norm_threads(x.columns()))};
  with_activation(out.dtype(), [&](auto element) {
    with_flag(is_whole, [&](auto whole) {
      using Out = decltype(element);
      auto kernel = norm_kernel<Out, added, whole()>;
      if constexpr (added == Added::partials) {
        if (shape.threads <= kFewPartialThreads)
          kernel = norm_kernel<Out, added, whole(), kFewPartialThreads>;
      }
      launch(queue, name, kernel, shape, rows_of<float>(x), addend, norm.weight.device_data<float>(),
             norm.eps, rows_of<Out>(out), x.columns());
    });
  });
}

}  // namespace

void rms_norm(const Queue& queue, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  norm<Added::nothing>(queue, "rms_norm", x, Addend{}, {weight, eps}, out);
}

void add_sums_norm(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const Tensor& weight, float eps, const Tensor& out) {
  const Addend addend{.sums = rows_of<int64_t>(sums),
                      .bias = bias.empty() ? nullptr : bias.device_data<float>(),
                      .aligned = rows_aligned(sums, 2) && (bias.empty() || rows_aligned(bias, kNormRun))};
  norm<Added::sums>(queue, "add_sums_norm", residual, addend, {weight, eps}, out);
}

bool adds_partials(int64_t outputs) {
  return outputs <= int64_t{kHeldRuns} * kNormRun * kMaxPartialThreads;
}

void add_partials_norm(const Queue& queue, const PartialSums& partials, const Tensor& bias,
                       const Tensor& residual, const NormWeight& weight, const Tensor& out) {
  CHORALE_CHECK(adds_partials(residual.columns()), "{} columns", residual.columns());
  const Addend addend{
      .partials = PartialArgs::of(partials),
      .bias = bias.empty() ? nullptr : bias.device_data<float>(),
      .aligned = rows_aligned(partials.values, kNormRun) && (bias.empty() || rows_aligned(bias, kNormRun))};
  if (partials.counts.empty())
    return norm<Added::own_partials>(queue, "add_partials_norm", residual, addend, weight, out);
  norm<Added::partials>(queue, "add_partials_norm", residual, addend, weight, out);
}

}  // namespace chorale::cuda
