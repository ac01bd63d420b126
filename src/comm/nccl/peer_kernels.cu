#include <algorithm>

#include "base/error.h"
#include "comm/nccl/peer_kernels.h"

namespace chorale::comm::peer {
namespace {

constexpr int kThreads = 512;
static_assert(kThreads >= kMaxMembers);
constexpr int64_t kBytesPerBlock = 16 * kThreads;  // below that, another block does not help
constexpr uint64_t kBetweenLooks = 1'000'000;      // nanoseconds

void check(cudaError_t status, const char* call, int device) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that has been told is not told again by the next call
  throw_error("cuda:{}: {} failed: {} ({})", device, call, cudaGetErrorString(status),
              cudaGetErrorName(status));
}

// ---- meeting ----

__device__ __forceinline__ uint64_t load_acquire(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
// Also for what earlier kernels of the queue, and other threads that this one has met, have written and read.
__device__ __forceinline__ void store_release(uint64_t* to, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
// How many blocks have been counted before.
__device__ __forceinline__ uint32_t count_block(uint32_t* count) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
  return before;
}
__device__ __forceinline__ uint64_t time_in_nanoseconds() {
  uint64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

// Of one thread: until a member has reached the number. False when it has given up.
__device__ bool await(const Group& group, int member, uint64_t number) {
  const uint64_t* reached = &group.members[group.rank]->slots[member].reached;
  if (load_acquire(reached) >= number) return true;
  volatile RankState* state = group.state;
  const int64_t name = 1 + group.world_ranks[member];
  const uint64_t start = time_in_nanoseconds();
  uint64_t next_look = start + kBetweenLooks;
  bool has_told = false;
  while (load_acquire(reached) < number) {
    const uint64_t now = time_in_nanoseconds();
    if (now < next_look) continue;
    next_look = now + kBetweenLooks;
    const bool is_late = group.limit > 0 && now - start > static_cast<uint64_t>(group.limit);
    if (is_late || state->ends != 0) {
      if (is_late) state->missed = name;
      group.rank_memory->has_given_up = 1;
      __threadfence_system();
      return false;
    }
    state->awaits = name;
    has_told = true;
  }
  if (has_told) state->awaits = 0;
  return true;
}

// What the block knows of all members' inputs, its own among them.
struct Inputs {
  const std::byte* data[kMaxMembers];
  const int64_t* counts[kMaxMembers];
};

// Waits until all members' inputs are ready. False when this rank has given up: then there are none.
__device__ bool begin(const Group& group, const void* input, const int64_t* counts, Inputs& inputs) {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  GroupMemory& own = *group.members[group.rank];
  const uint64_t number = own.number + 1;
  const int member = static_cast<int>(threadIdx.x);
  bool is_well = group.rank_memory->has_given_up == 0;
  if (is_well && member < group.size) {
    if (member == group.rank) {
      inputs.data[member] = static_cast<const std::byte*>(input);
      inputs.counts[member] = counts;
    } else {
      if (blockIdx.x == 0) {
        volatile Slot& there = group.members[member]->slots[group.rank];
        there.input = static_cast<const std::byte*>(input);
        there.counts = counts;
        store_release(&group.members[member]->slots[group.rank].reached, number);
      }
      is_well = await(group, member, number);
      volatile Slot& here = own.slots[member];
      inputs.data[member] = here.input;
      inputs.counts[member] = here.counts;
    }
  }
  return __syncthreads_and(is_well ? 1 : 0) != 0;
}

// Waits until all members have read what they need, by the block that is the last to come here.
__device__ void end(const Group& group) {
  __shared__ bool is_last;
  GroupMemory& own = *group.members[group.rank];
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = count_block(&own.blocks_done) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  const uint64_t number = own.number + 2;
  const int member = static_cast<int>(threadIdx.x);
  if (member < group.size && member != group.rank) {
    store_release(&group.members[member]->slots[group.rank].reached, number);
    await(group, member, number);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    own.blocks_done = 0;
    own.number = number;
  }
}

// ---- moving ----

struct Share {  // of all threads of the grid
  int64_t first;
  int64_t step;
};
__device__ __forceinline__ Share share_of_thread() {
  return {int64_t{blockIdx.x} * kThreads + threadIdx.x, int64_t{gridDim.x} * kThreads};
}

// Pieces of memory that become one, those of all members one after the other.
struct Pieces {
  const std::byte* from[kMaxMembers];
  int64_t ends[kMaxMembers];  // in the whole, in bytes
};

template <typename T>
__device__ void copy_as(const Pieces& pieces, int count, std::byte* to) {
  const auto size = static_cast<int64_t>(sizeof(T));
  const int64_t total = pieces.ends[count - 1] / size;
  const Share share = share_of_thread();
  int piece = 0;
  for (int64_t i = share.first; i < total; i += share.step) {
    while (i * size >= pieces.ends[piece]) ++piece;
    const int64_t begin = piece == 0 ? 0 : pieces.ends[piece - 1];
    reinterpret_cast<T*>(to)[i] = *reinterpret_cast<const T*>(pieces.from[piece] + (i * size - begin));
  }
}

// By all threads of the grid. Pieces that are there already stay.
__device__ void copy(const Pieces& pieces, int count, std::byte* to) {
  uint64_t bits = reinterpret_cast<uint64_t>(to);
  for (int p = 0; p < count; ++p)
    bits |= reinterpret_cast<uint64_t>(pieces.from[p]) | static_cast<uint64_t>(pieces.ends[p]);
  if (bits % 16 == 0)
    copy_as<uint4>(pieces, count, to);
  else if (bits % 4 == 0)
    copy_as<uint32_t>(pieces, count, to);
  else
    copy_as<uint8_t>(pieces, count, to);
}

struct ReduceArgs {
  const int64_t* values;
  int64_t first;  // of the own part
  int64_t count;
  int64_t* part;
};

__device__ __forceinline__ void add(ulonglong2& sum, const ulonglong2& value) {
  sum.x += value.x;
  sum.y += value.y;
}
__device__ __forceinline__ void add(uint64_t& sum, uint64_t value) {
  sum += value;
}

template <typename T>
__device__ void add_up(const Inputs& inputs, int size, const ReduceArgs& args) {
  const Share share = share_of_thread();
  const int64_t count = args.count * static_cast<int64_t>(sizeof(int64_t)) / static_cast<int64_t>(sizeof(T));
  const int64_t skipped = args.first * static_cast<int64_t>(sizeof(int64_t));
  for (int64_t i = share.first; i < count; i += share.step) {
    T sum{};
#pragma unroll 4
    for (int p = 0; p < size; ++p) add(sum, reinterpret_cast<const T*>(inputs.data[p] + skipped)[i]);
    reinterpret_cast<T*>(args.part)[i] = sum;
  }
}

__global__ void __launch_bounds__(kThreads) reduce_scatter_kernel(Group group, ReduceArgs args) {
  __shared__ Inputs inputs;
  if (!begin(group, args.values, nullptr, inputs)) return;
  uint64_t bits = reinterpret_cast<uint64_t>(args.part) | static_cast<uint64_t>(args.first * 8) |
                  static_cast<uint64_t>(args.count * 8);
  for (int p = 0; p < group.size; ++p) bits |= reinterpret_cast<uint64_t>(inputs.data[p]);
  if (bits % 16 == 0)
    add_up<ulonglong2>(inputs, group.size, args);
  else
    add_up<uint64_t>(inputs, group.size, args);
  end(group);
}

struct GatherArgs {
  const std::byte* part;
  std::byte* all;
  int64_t ends[kMaxMembers];  // of the parts
  bool wants;
};

__global__ void __launch_bounds__(kThreads) gather_kernel(Group group, GatherArgs args) {
  __shared__ Inputs inputs;
  __shared__ Pieces pieces;
  if (!begin(group, args.part, nullptr, inputs)) return;
  if (args.wants) {
    if (threadIdx.x < static_cast<unsigned>(group.size)) {
      pieces.from[threadIdx.x] = inputs.data[threadIdx.x];
      pieces.ends[threadIdx.x] = args.ends[threadIdx.x];
    }
    __syncthreads();
    copy(pieces, group.size, args.all);
  }
  end(group);
}

__global__ void __launch_bounds__(kThreads) all_to_all_kernel(Group group, Exchange args) {
  __shared__ Inputs inputs;
  __shared__ Pieces pieces;
  __shared__ int64_t received[kMaxMembers];
  if (!begin(group, args.send, args.sent_rows, inputs)) return;
  if (threadIdx.x < static_cast<unsigned>(group.size)) {
    const volatile int64_t* counts = inputs.counts[threadIdx.x];
    int64_t before = 0;
    for (int r = 0; r < group.rank; ++r) before += counts[r];
    received[threadIdx.x] = counts[group.rank];
    pieces.from[threadIdx.x] = inputs.data[threadIdx.x] + before * args.row_bytes;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int64_t rows = 0;
    for (int p = 0; p < group.size; ++p) {
      const int64_t fitting = args.receive_room - rows < received[p] ? args.receive_room - rows : received[p];
      received[p] = fitting;
      rows += fitting;
      pieces.ends[p] = rows * args.row_bytes;
    }
  }
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x < static_cast<unsigned>(group.size))
    args.received_rows[threadIdx.x] = received[threadIdx.x];
  copy(pieces, group.size, args.receive);
  end(group);
}

template <typename Args>
void launch(const Place& place, const char* name, void (*kernel)(Group, Args), const Group& group,
            int64_t bytes, const Args& args) {
  check(cudaSetDevice(place.device), "cudaSetDevice", place.device);
  const int64_t blocks = std::clamp<int64_t>((bytes + kBytesPerBlock - 1) / kBytesPerBlock, 1,
                                             static_cast<int64_t>(group.most_blocks));
  cudaLaunchAttribute dependent{};  // as all other kernels are started; this one waits for those before it
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(place.stream);
  config.attrs = &dependent;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, group, args), name, place.device);
}

}  // namespace

void reduce_scatter_sum(const Place& place, const Group& group, const int64_t* values,
                        std::span<const int64_t> counts, int64_t* part) {
  ReduceArgs args{
      .values = values, .first = 0, .count = counts[static_cast<size_t>(group.rank)], .part = part};
  for (int r = 0; r < group.rank; ++r) args.first += counts[static_cast<size_t>(r)];
  const int64_t bytes = args.count * static_cast<int64_t>(sizeof(int64_t));
  launch(place, "reduce_scatter", reduce_scatter_kernel, group, bytes, args);
}

void gather(const Place& place, const Group& group, const std::byte* part, std::span<const int64_t> sizes,
            std::byte* all, bool wants) {
  GatherArgs args{.part = part, .all = all, .ends = {}, .wants = wants};
  int64_t end = 0;
  for (size_t r = 0; r < sizes.size(); ++r) args.ends[r] = end += sizes[r];
  launch(place, "gather", gather_kernel, group, wants ? end : 0, args);
}

void all_to_all(const Place& place, const Group& group, const Exchange& rows) {
  launch(place, "all_to_all", all_to_all_kernel, group, rows.receive_room * rows.row_bytes, rows);
}

bool can_reach(int from, int to) {
  int can = 0;
  check(cudaDeviceCanAccessPeer(&can, from, to), "cudaDeviceCanAccessPeer", from);
  return can != 0;
}

void let_reach(int from, int to) {
  check(cudaSetDevice(from), "cudaSetDevice", from);
  const cudaError_t status = cudaDeviceEnablePeerAccess(to, 0);
  if (status == cudaErrorPeerAccessAlreadyEnabled)
    cudaGetLastError();
  else
    check(status, "cudaDeviceEnablePeerAccess", from);
}

}  // namespace chorale::comm::peer
