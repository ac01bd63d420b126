#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/partial_sums.h"

namespace chorale::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) clear_lists(int32_t* counts, int64_t num_tokens) {
  wait_for_previous();
  allow_next();
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t < num_tokens) counts[t] = 0;
}

// In whichever order the atomic additions come, which sums do not show.
__global__ void __launch_bounds__(kThreads)
    list_rows(const int32_t* num_rows, const int32_t* tokens, int32_t* counts, int32_t* lists) {
  wait_for_previous();
  allow_next();
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= *num_rows) return;
  const int32_t token = tokens[row];
  const int32_t place = atomicAdd(counts + token, 1);
  if (place >= kMaxRoutedTopK) __trap();
  lists[int64_t{token} * kMaxRoutedTopK + place] = static_cast<int32_t>(row);
}

// A block has a token. whole: rows are whole runs of columns, and aligned.
template <bool whole, SumMode mode>
__global__ void __launch_bounds__(kThreads, 4)
    add_partials_kernel(PartialArgs args, Rows<int64_t> sums, int64_t outputs) {
  __shared__ int32_t shared[kMaxRoutedTopK];
  __shared__ int not_finite;
  if (threadIdx.x == 0) not_finite = 0;
  wait_for_previous();
  allow_next();
  const int64_t token = blockIdx.x;
  const TokenRows rows = TokenRows::of(args, token, shared);
  if (rows.count == 0 && mode != SumMode::assign) return;
  int64_t* to = sums.row(token);
  for (int64_t c = int64_t{threadIdx.x} * kNormRun; c < outputs; c += kThreads * kNormRun) {
    const int64_t left = outputs - c;
    RunSums sum = rows.sums_of<whole>(args, c, left);
    if (sum.not_finite != 0) atomicAdd(&not_finite, sum.not_finite);
#pragma unroll
    for (int j = 0; j < kNormRun; j += 2) {
      if (!whole && j >= left) break;
      Vector<int64_t, 2> pair{{sum.at[j], sum.at[j + 1]}};
      if constexpr (mode == SumMode::add) {
        const Vector<int64_t, 2> before = load<2, whole>(to + c + j, left - j);
        pair.at[0] += before.at[0];
        pair.at[1] += before.at[1];
      }
      store<2, whole>(to + c + j, pair, left - j);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (mode == SumMode::assign)
    to[outputs] = not_finite;
  else if (not_finite != 0)
    to[outputs] += not_finite;
}

}  // namespace

int64_t partials_scratch_floats(int64_t rows, int64_t num_tokens, int64_t outputs) {
  return rows * outputs + num_tokens * (1 + kMaxRoutedTopK);
}

PartialSums make_partials(const Queue& queue, const ExpertRows& rows, int64_t num_rows, int64_t num_tokens,
                          int64_t outputs) {
  const Tensor& scratch = rows.scratch;
  CHORALE_CHECK(scratch.columns() >=
                partials_scratch_floats(num_rows, rows.all_tokens() ? 0 : num_tokens, outputs));
  std::byte* at = scratch.device_bytes();
  PartialSums partials{Tensor(at, DType::f32, num_rows, outputs, outputs, scratch.device())};
  if (rows.all_tokens()) return partials;
  at += num_rows * outputs * static_cast<int64_t>(sizeof(float));
  partials.counts = Tensor(at, DType::i32, 1, num_tokens, num_tokens, scratch.device());
  at += num_tokens * static_cast<int64_t>(sizeof(int32_t));
  partials.rows = Tensor(at, DType::i32, num_tokens, kMaxRoutedTopK, kMaxRoutedTopK, scratch.device());
  auto* counts = partials.counts.device_data<int32_t>();
  launch(queue, "clear_lists", clear_lists, {dim3(blocks_for(num_tokens, kThreads)), kThreads}, counts,
         num_tokens);
  launch(queue, "list_rows", list_rows, {dim3(blocks_for(num_rows, kThreads)), kThreads},
         rows.offsets.device_data<int32_t>() + rows.offsets.columns() - 1, rows.tokens.device_data<int32_t>(),
         counts, partials.rows.device_data<int32_t>());
  return partials;
}

void add_partials(const Queue& queue, const PartialSums& partials, const Tensor& sums, SumMode mode) {
  const int64_t outputs = sums.columns() - 1;
  const bool is_whole =
      outputs % kNormRun == 0 && rows_aligned(sums, 2) && rows_aligned(partials.values, kNormRun);
  const auto start = [&](auto kernel) {
    launch(queue, "add_partials", kernel, {dim3(static_cast<unsigned>(sums.rows())), kThreads},
           PartialArgs::of(partials), rows_of<int64_t>(sums), outputs);
  };
  with_flag(is_whole, [&](auto whole) {
    if (mode == SumMode::add) return start(add_partials_kernel<whole(), SumMode::add>);
    if (mode == SumMode::assign) return start(add_partials_kernel<whole(), SumMode::assign>);
    start(add_partials_kernel<whole(), SumMode::add_to_zeros>);
  });
}

}  // namespace chorale::cuda
