// Ops of dispatch.h that move rows.
#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/dispatch.h"

namespace chorale::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFF;
constexpr int kFindThreads = 1024;
constexpr int kFindWarps = kFindThreads / kWarp;
constexpr int kRowThreads = 128;
constexpr int kAddThreads = 256;
constexpr unsigned kAddBlocksPerProcessor = 4;

struct DispatchArgs {
  const std::byte* x;
  int64_t x_stride;  // in bytes
  Rows<const int32_t> experts;
  Rows<const float> weights;
  int64_t num_tokens;
  int top_k;
  Rows<const int32_t> slots;  // [variants, logical experts]
  int num_variants;
  int num_experts;
  int slots_per_rank;
  int num_owners;
  int copies;
  Rows<int32_t> owner_tokens;
  int64_t* counts;  // [owners * copies]
  int32_t* tokens;  // [num_rows]
  std::byte* rows;  // [num_rows][row_bytes]
  int64_t num_rows;
  int row_bytes, x_bytes, slots_offset, weights_offset;
};

// The slot of a token's i-th expert, or -1 for an expert that there is not.
__device__ __forceinline__ int slot_of(const DispatchArgs& args, int64_t t, int i) {
  const int expert = args.experts.row(t)[i];
  if (expert < 0 || expert >= args.num_experts) return -1;
  return args.slots.row((static_cast<int>(t) + expert) % args.num_variants)[expert];
}

// A block finds the tokens that go to one owner, in order, and how many they are.
__global__ void __launch_bounds__(kFindThreads) find_tokens_kernel(DispatchArgs args) {
  wait_for_previous();
  allow_next();
  __shared__ int sums[kFindWarps];
  const int owner = static_cast<int>(blockIdx.x);
  const int first_slot = owner * args.slots_per_rank;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int found = 0;  // so far
  for (int64_t begin = 0; begin < args.num_tokens; begin += kFindThreads) {
    const int64_t t = begin + threadIdx.x;
    bool goes = false;
    for (int i = 0; i < args.top_k && t < args.num_tokens; ++i) {
      const int slot = slot_of(args, t, i) - first_slot;
      goes = goes || (slot >= 0 && slot < args.slots_per_rank);
    }
    const unsigned with_it = __ballot_sync(kAllLanes, goes);
    if (lane == 0) sums[warp] = __popc(with_it);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < kFindWarps; ++w) {
      before += w < warp ? sums[w] : 0;
      all += sums[w];
    }
    if (goes)
      args.owner_tokens.row(owner)[found + before + __popc(with_it & ((1U << lane) - 1))] =
          static_cast<int32_t>(t);
    found += all;
    __syncthreads();
  }
  for (int c = static_cast<int>(threadIdx.x); c < args.copies; c += kFindThreads)
    args.counts[owner * args.copies + c] = found;
}

// A block writes one travelling row.
__global__ void __launch_bounds__(kRowThreads) write_rows_kernel(DispatchArgs args) {
  wait_for_previous();
  allow_next();
  const int64_t r = blockIdx.x;
  int64_t within = r;  // of the rows for one rank
  int rank = 0;
  const int ranks = args.num_owners * args.copies;
  while (rank < ranks && within >= args.counts[rank]) within -= args.counts[rank++];
  if (rank == ranks || r >= args.num_rows) return;
  const int owner = rank / args.copies;
  const int64_t t = args.owner_tokens.row(owner)[within];
  std::byte* row = args.rows + r * args.row_bytes;
  const std::byte* from = args.x + t * args.x_stride;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) args.tokens[r] = static_cast<int32_t>(t);
  // Activations are of 2 or 4 bytes, and rows begin at multiples of 64.
  const bool is_aligned = reinterpret_cast<uintptr_t>(from) % 16 == 0;
  const int whole = is_aligned ? args.x_bytes / 16 : 0;
  for (int i = thread; i < whole; i += kRowThreads)
    reinterpret_cast<uint4*>(row)[i] = reinterpret_cast<const uint4*>(from)[i];
  for (int i = whole * 8 + thread; i < args.x_bytes / 2; i += kRowThreads)
    reinterpret_cast<uint16_t*>(row)[i] = reinterpret_cast<const uint16_t*>(from)[i];
  for (int i = args.x_bytes + thread; i < args.slots_offset; i += kRowThreads) row[i] = std::byte{};
  for (int i = thread; i < args.top_k; i += kRowThreads) {
    const int slot = slot_of(args, t, i) - owner * args.slots_per_rank;
    reinterpret_cast<int32_t*>(row + args.slots_offset)[i] =
        slot >= 0 && slot < args.slots_per_rank ? slot : -1;
    reinterpret_cast<float*>(row + args.weights_offset)[i] = args.weights.row(t)[i];
  }
  for (int i = args.weights_offset + 4 * args.top_k + thread; i < args.row_bytes; i += kRowThreads)
    row[i] = std::byte{};
}

// A block adds one row after the other. Sums of integers do not depend on their order.
__global__ void __launch_bounds__(kAddThreads)
    add_returned_kernel(Rows<const int64_t> returned, int64_t num_rows, const int32_t* tokens,
                        const int64_t* counts, int num_counts, Rows<int64_t> sums, int64_t columns) {
  wait_for_previous();
  allow_next();
  int64_t there = 0;
  for (int i = 0; i < num_counts; ++i) there += counts[i];
  if (there > num_rows) there = num_rows;
  for (int64_t r = blockIdx.x; r < there; r += gridDim.x) {
    const int64_t* from = returned.row(r);
    auto* to = reinterpret_cast<unsigned long long*>(sums.row(tokens[r]));
    for (int64_t c = threadIdx.x; c < columns; c += kAddThreads)
      atomicAdd(to + c, static_cast<unsigned long long>(from[c]));
  }
}

}  // namespace

void dispatch_rows(const Queue& queue, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send) {
  const auto element = static_cast<int64_t>(size_of(x.dtype()));
  const int64_t most_of_token = std::min<int64_t>(table.num_owners, format.top_k) * table.copies;
  const DispatchArgs args{.x = x.device_bytes(),
                          .x_stride = x.row_stride() * element,
                          .experts = rows_of<const int32_t>(chosen.experts),
                          .weights = rows_of<const float>(chosen.weights),
                          .num_tokens = x.rows(),
                          .top_k = static_cast<int>(format.top_k),
                          .slots = rows_of<const int32_t>(table.slots),
                          .num_variants = static_cast<int>(table.slots.rows()),
                          .num_experts = static_cast<int>(table.slots.columns()),
                          .slots_per_rank = static_cast<int>(table.slots_per_rank),
                          .num_owners = static_cast<int>(table.num_owners),
                          .copies = static_cast<int>(table.copies),
                          .owner_tokens = rows_of<int32_t>(send.owner_tokens),
                          .counts = send.counts.device_data<int64_t>(),
                          .tokens = send.tokens.device_data<int32_t>(),
                          .rows = send.rows.device_bytes(),
                          .num_rows = std::min(send.rows.rows(), send.tokens.columns()),
                          .row_bytes = static_cast<int>(format.bytes()),
                          .x_bytes = static_cast<int>(format.hidden * element),
                          .slots_offset = static_cast<int>(format.slots_offset()),
                          .weights_offset = static_cast<int>(format.weights_offset())};
  launch(queue, "dispatch_rows", find_tokens_kernel,
         LaunchShape{dim3(static_cast<unsigned>(table.num_owners)), kFindThreads}, args);
  const int64_t most_rows = std::min(x.rows() * most_of_token, args.num_rows);
  launch(queue, "dispatch_rows", write_rows_kernel,
         LaunchShape{dim3(static_cast<unsigned>(most_rows)), kRowThreads}, args);
}

void add_returned(const Queue& queue, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums) {
  const auto most = static_cast<unsigned>(queue.num_multiprocessors()) * kAddBlocksPerProcessor;
  const auto rows = static_cast<unsigned>(std::min<int64_t>(returned.rows(), most));
  launch(queue, "add_returned", add_returned_kernel, LaunchShape{dim3(rows), kAddThreads},
         rows_of<const int64_t>(returned), returned.rows(), tokens.device_data<int32_t>(),
         counts.device_data<int64_t>(), static_cast<int>(counts.columns()), rows_of<int64_t>(sums),
         sums.columns());
}

}  // namespace chorale::cuda
