// Ops of route.h, and the counting of dispatch.h.
#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/route.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/dispatch.h"

namespace chorale::cuda {
namespace {

constexpr int kChooseWarps = 4;
constexpr int kRouteWarps = 32;             // of the one block, as many tokens
constexpr int64_t kMostFusedExperts = 256;  // for more there are no registers
constexpr int kSortThreads = 1024;          // as many as there may be experts
constexpr int kSortWarps = kSortThreads / kWarp;
static_assert(kSortThreads >= kMaxRoutedExperts && kSortWarps <= kWarp);
constexpr int kCountThreads = 256;
constexpr int64_t kPairsPerCountBlock = 4096;

template <int per_lane>
__global__ void __launch_bounds__(kChooseWarps* kWarp)
    choose_kernel(Rows<const float> logits, int64_t num_tokens, ChooseArgs args, Rows<int32_t> experts,
                  Rows<float> weights) {
  wait_for_previous();
  allow_next();
  const int64_t t = int64_t{blockIdx.x} * kChooseWarps + threadIdx.x / kWarp;
  if (t >= num_tokens) return;
  const ChosenExpert own = choose_for_token<per_lane>(logits.row(t), args);
  const int lane = threadIdx.x % kWarp;
  if (lane < args.top_k) {
    experts.row(t)[lane] = own.expert;
    weights.row(t)[lane] = own.weight;
  }
}

struct ChosenRows {
  Rows<int32_t> experts;
  Rows<float> weights;
};
struct SortedRows {
  int32_t* offsets;
  int32_t* active;
  int32_t* tokens;
  float* weights;
  int32_t* places;  // [T][places_stride], or null
  int64_t places_stride;

  __device__ __forceinline__ void put(int row, int64_t token, int choice, float weight) const {
    tokens[row] = static_cast<int32_t>(token);
    weights[row] = weight;
    if (places != nullptr) places[token * places_stride + choice] = row;
  }
};
SortedRows sorted_rows(const ExpertRows& rows) {
  return {rows.offsets.device_data<int32_t>(),
          rows.active.device_data<int32_t>(),
          rows.tokens.device_data<int32_t>(),
          rows.weights.device_data<float>(),
          rows.places.empty() ? nullptr : reinterpret_cast<int32_t*>(rows.places.device_bytes()),
          rows.places.row_stride()};
}

// Routing of up to 32 tokens by one block: a warp chooses for a token, and the set of an expert's tokens is
// the bits of one word, which no order of the warps can change.
template <int per_lane>
__global__ void __launch_bounds__(kRouteWarps* kWarp)
    route_kernel(Rows<const float> logits, int num_tokens, ChooseArgs args, ChosenRows chosen,
                 SortedRows rows, int64_t* counts) {
  constexpr int kMost = per_lane * kWarp;
  static_assert(kMost <= kRouteWarps * kWarp);
  __shared__ unsigned tokens_of[kMost];
  __shared__ int first_row[kMost];
  __shared__ int sums[kRouteWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int t = thread / kWarp;
  if (thread < kMost) tokens_of[thread] = 0;
  wait_for_previous();
  allow_next();
  __syncthreads();

  ChosenExpert own{0, 0.0F};
  const bool chooses = t < num_tokens && lane < args.top_k;
  if (t < num_tokens) own = choose_for_token<per_lane>(logits.row(t), args);
  if (chooses) {
    chosen.experts.row(t)[lane] = own.expert;
    chosen.weights.row(t)[lane] = own.weight;
    atomicOr(&tokens_of[own.expert], 1U << t);
  }
  __syncthreads();

  // Rows before an expert's, and above them the experts before it that have rows.
  constexpr int kOneActive = 1 << 16;
  const int count = thread < args.num_experts ? __popc(tokens_of[thread]) : 0;
  const int mine = count + (count > 0 ? kOneActive : 0);
  int up_to = add_lanes_up_to(mine);
  if (lane == kWarp - 1) sums[t] = up_to;
  __syncthreads();
  if (t == 0) {
    const int sum = sums[lane];
    sums[lane] = add_lanes_up_to(sum) - sum;
  }
  __syncthreads();
  up_to += sums[t];
  const int before = up_to - mine;
  if (thread < args.num_experts) {
    first_row[thread] = before % kOneActive;
    rows.offsets[thread] = before % kOneActive;
    if (count > 0) rows.active[1 + before / kOneActive] = thread;
    if (counts != nullptr) counts[thread] += count;
  }
  if (thread == args.num_experts - 1) {
    rows.offsets[args.num_experts] = up_to % kOneActive;
    rows.active[0] = up_to / kOneActive;
  }
  __syncthreads();
  if (chooses) {
    const int row = first_row[own.expert] + __popc(tokens_of[own.expert] & ((1U << t) - 1));
    rows.put(row, t, lane, own.weight);
  }
}

struct SortArgs {
  Rows<const int32_t> experts;
  Rows<const float> weights;
  int64_t num_tokens;
  int top_k;
  int num_experts;
  SortedRows rows;
  const int64_t* counts;  // of tokens that are there, num_counts of them; null: all are
  int num_counts;
  int64_t* load;  // [E], to which each expert's rows are added, or null
};

// Which reads what another kernel may have written.
__device__ __forceinline__ void drop_absent_tokens(SortArgs& args) {
  if (args.counts == nullptr) return;
  int64_t there = 0;
  for (int i = 0; i < args.num_counts; ++i) there += args.counts[i];
  args.num_tokens = there < args.num_tokens ? there : args.num_tokens;
}

// Calls visit(i, expert) for each choice of a token. quads: four at a time.
template <bool quads, typename Visit>
__device__ __forceinline__ void visit_choices(const SortArgs& args, int64_t t, const Visit& visit) {
  const int32_t* chosen = args.experts.row(t);
  if constexpr (quads) {
    for (int i = 0; i < args.top_k; i += 4) {
      const Vector<int32_t, 4> four = load<4, true>(chosen + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) visit(i + j, four.at[j]);
    }
  } else {
    for (int i = 0; i < args.top_k; ++i) visit(i, chosen[i]);
  }
}

// Adds up over the block; every thread gets the sum. sums: a word for each warp.
__device__ __forceinline__ int add_integers_over_block(int value, int* sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  value = __reduce_add_sync(kAllLanes, value);
  __syncthreads();
  if (lane == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  return __reduce_add_sync(kAllLanes, lane < kSortWarps ? sums[lane] : 0);
}

// The experts that have rows, and where the last one's end.
template <bool quads>
__device__ __forceinline__ void find_active(const SortArgs& args, int* has_rows, int* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int e = thread; e < args.num_experts; e += kSortThreads) has_rows[e] = 0;
  __syncthreads();
  int pairs = 0;
  for (int64_t t = thread; t < args.num_tokens; t += kSortThreads) {
    visit_choices<quads>(args, t, [&](int, int e) {
      if (e < 0 || e >= args.num_experts) return;
      has_rows[e] = 1;
      ++pairs;
    });
  }
  pairs = add_integers_over_block(pairs, sums);
  const int is_active = thread < args.num_experts ? has_rows[thread] : 0;
  const int up_to = add_lanes_up_to(is_active);
  __syncthreads();
  if (thread % kWarp == kWarp - 1) sums[thread / kWarp] = up_to;
  __syncthreads();
  int before = up_to - is_active;
  int total = 0;
  for (int w = 0; w < kSortWarps; ++w) {
    before += w < thread / kWarp ? sums[w] : 0;
    total += sums[w];
  }
  if (is_active != 0) args.rows.active[1 + before] = thread;
  if (thread == 0) {
    args.rows.active[0] = total;
    args.rows.offsets[args.num_experts] = pairs;
  }
}

// A block finds the rows of one expert by walking all pairs, so that no block waits for another; one block
// more finds what concerns all experts. A warp has a range of tokens, in order.
template <bool quads>
__global__ void __launch_bounds__(kSortThreads) sort_kernel(SortArgs args) {
  wait_for_previous();
  allow_next();
  drop_absent_tokens(args);
  extern __shared__ int has_rows[];  // [E]
  __shared__ int sums[kSortWarps];
  const int expert = static_cast<int>(blockIdx.x);
  if (expert == args.num_experts) {
    find_active<quads>(args, has_rows, sums);
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t share = (args.num_tokens + kSortThreads - 1) / kSortThreads * kWarp;
  const int64_t first = warp * share;
  const int64_t last = first + share < args.num_tokens ? first + share : args.num_tokens;
  int before = 0;  // pairs of lower experts
  int mine = 0;
  for (int64_t t = first + lane; t < last; t += kWarp) {
    visit_choices<quads>(args, t, [&](int, int e) {
      before += e >= 0 && e < expert ? 1 : 0;
      mine += e == expert ? 1 : 0;
    });
  }
  const int offset = add_integers_over_block(before, sums);
  if (threadIdx.x == 0) args.rows.offsets[expert] = offset;
  mine = __reduce_add_sync(kAllLanes, mine);
  __syncthreads();
  if (lane == 0) sums[warp] = mine;
  __syncthreads();
  int row = offset + __reduce_add_sync(kAllLanes, lane < warp ? sums[lane] : 0);
  if (args.load != nullptr && warp == 0) {
    const int all = __reduce_add_sync(kAllLanes, sums[lane]);
    if (lane == 0) args.load[expert] += all;
  }
  if (mine == 0) return;

  for (int64_t begin = first; begin < last; begin += kWarp) {
    const int64_t t = begin + lane;
    int at = -1;  // a token's experts differ
    if (t < last) visit_choices<quads>(args, t, [&](int i, int e) { at = e == expert ? i : at; });
    const unsigned with_it = __ballot_sync(kAllLanes, at >= 0);
    if (at >= 0) {
      const int to = row + __popc(with_it & ((1U << lane) - 1));
      args.rows.put(to, t, at, args.weights.row(t)[at]);
    }
    row += __popc(with_it);
  }
}

__global__ void __launch_bounds__(kCountThreads)
    count_kernel(Rows<const int32_t> experts, int64_t num_tokens, int top_k, unsigned long long* counts,
                 int num_experts) {
  wait_for_previous();
  allow_next();
  extern __shared__ int block_counts[];  // [E]
  for (int e = static_cast<int>(threadIdx.x); e < num_experts; e += kCountThreads) block_counts[e] = 0;
  __syncthreads();
  const int64_t pairs = num_tokens * top_k;
  for (int64_t p = int64_t{blockIdx.x} * kCountThreads + threadIdx.x; p < pairs;
       p += int64_t{gridDim.x} * kCountThreads) {
    const int64_t t = p / top_k;
    const int e = experts.row(t)[p - t * top_k];
    if (e >= 0 && e < num_experts) atomicAdd(&block_counts[e], 1);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < num_experts; e += kCountThreads) {
    if (block_counts[e] > 0) atomicAdd(&counts[e], static_cast<unsigned long long>(block_counts[e]));
  }
}

__global__ void count_tokens_kernel(int64_t num_tokens, int64_t* counts) {
  wait_for_previous();
  allow_next();
  counts[0] += num_tokens;
}

// Calls run(kernel constant) with the experts that a lane has.
template <typename Run>
void with_experts_per_lane(int64_t num_experts, const Run& run) {
  if (num_experts <= kWarp)
    run(std::integral_constant<int, 1>{});
  else if (num_experts <= 4 * kWarp)
    run(std::integral_constant<int, 4>{});
  else if (num_experts <= 8 * kWarp)
    run(std::integral_constant<int, 8>{});
  else
    run(std::integral_constant<int, kMaxRoutedExperts / kWarp>{});
}

ChooseArgs choose_args(const Tensor& logits, const RouteOptions& options) {
  CHORALE_CHECK(logits.columns() <= kMaxRoutedExperts && options.top_k <= kMaxRoutedTopK,
                "top {} of {} experts", options.top_k, logits.columns());
  return {static_cast<int>(logits.columns()), static_cast<int>(options.top_k), options.normalize};
}

}  // namespace

void choose_experts(const Queue& queue, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen) {
  const ChooseArgs args = choose_args(logits, options);
  with_experts_per_lane(logits.columns(), [&](auto per_lane) {
    launch(queue, "choose_experts", choose_kernel<per_lane()>,
           LaunchShape{dim3(blocks_for(logits.rows(), kChooseWarps)), kChooseWarps * kWarp},
           rows_of<const float>(logits), logits.rows(), args, rows_of<int32_t>(chosen.experts),
           rows_of<float>(chosen.weights));
  });
}

namespace {

// load: int64 [1, E], to which each expert's rows are added, or empty.
void sort(const Queue& queue, const ChosenExperts& chosen, const ExpertRows& rows, const Tensor& counts,
          const Tensor& load) {
  const int64_t num_experts = rows.offsets.columns() - 1;
  CHORALE_CHECK(num_experts <= kMaxRoutedExperts, "{} experts", num_experts);
  const SortArgs args{.experts = rows_of<const int32_t>(chosen.experts),
                      .weights = rows_of<const float>(chosen.weights),
                      .num_tokens = chosen.experts.rows(),
                      .top_k = static_cast<int>(chosen.experts.columns()),
                      .num_experts = static_cast<int>(num_experts),
                      .rows = sorted_rows(rows),
                      .counts = counts.empty() ? nullptr : counts.device_data<int64_t>(),
                      .num_counts = static_cast<int>(counts.columns()),
                      .load = load.empty() ? nullptr : load.device_data<int64_t>()};
  const LaunchShape shape{dim3(static_cast<unsigned>(num_experts + 1)), kSortThreads,
                          static_cast<size_t>(num_experts) * sizeof(int)};
  const bool is_quads = chosen.experts.columns() % 4 == 0 && rows_aligned(chosen.experts, 4);
  with_flag(is_quads,
            [&](auto quads) { launch(queue, "sort_by_expert", sort_kernel<quads()>, shape, args); });
}

}  // namespace

void sort_by_expert(const Queue& queue, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts) {
  sort(queue, chosen, rows, counts, {});
}

void count_experts(const Queue& queue, const Tensor& experts, const Tensor& counts) {
  const int64_t num_experts = counts.columns();
  CHORALE_CHECK(num_experts <= kMaxRoutedExperts, "{} experts", num_experts);
  const int64_t pairs = experts.size();
  const auto most = static_cast<unsigned>(queue.num_multiprocessors());
  const LaunchShape shape{dim3(std::min(blocks_for(pairs, kPairsPerCountBlock), most)), kCountThreads,
                          static_cast<size_t>(num_experts) * sizeof(int)};
  launch(queue, "count_experts", count_kernel, shape, rows_of<const int32_t>(experts), experts.rows(),
         static_cast<int>(experts.columns()),
         reinterpret_cast<unsigned long long*>(counts.device_data<int64_t>()), static_cast<int>(num_experts));
}

void count_tokens(const Queue& queue, int64_t num_tokens, const Tensor& counts) {
  launch(queue, "count_tokens", count_tokens_kernel, LaunchShape{dim3(1), 1}, num_tokens,
         counts.device_data<int64_t>());
}

void route(const Queue& queue, const Tensor& logits, const RouteOptions& options, const ChosenExperts& chosen,
           const ExpertRows& rows, const Tensor& counts) {
  const int64_t num_experts = logits.columns();
  if (logits.rows() == 0 || logits.rows() > kRouteWarps || num_experts > kMostFusedExperts) {
    choose_experts(queue, logits, options, chosen);
    sort(queue, chosen, rows, {}, counts);
    return;
  }
  const ChooseArgs args = choose_args(logits, options);
  const auto start = [&](auto per_lane) {
    launch(queue, "route", route_kernel<per_lane()>, LaunchShape{dim3(1), kRouteWarps * kWarp},
           rows_of<const float>(logits), logits.rows(), args,
           ChosenRows{rows_of<int32_t>(chosen.experts), rows_of<float>(chosen.weights)}, sorted_rows(rows),
           counts.empty() ? nullptr : counts.device_data<int64_t>());
  };
  if (num_experts <= 4 * kWarp)
    start(std::integral_constant<int, 4>{});
  else
    start(std::integral_constant<int, kMostFusedExperts / kWarp>{});
}

}  // namespace chorale::cuda
