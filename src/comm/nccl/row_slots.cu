#include "base/error.h"
#include "comm/nccl/row_slots.h"

namespace chorale::comm::nccl {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSlot = 32;

void check(cudaError_t status, const char* call, int device) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that has been told is not told again by the next call
  throw_error("cuda:{}: {} failed: {} ({})", device, call, cudaGetErrorString(status),
              cudaGetErrorName(status));
}

template <typename T>
__device__ void copy_as(const std::byte* from, std::byte* to, int64_t bytes) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < bytes / static_cast<int64_t>(sizeof(T));
       i += int64_t{gridDim.x} * kThreads)
    reinterpret_cast<T*>(to)[i] = reinterpret_cast<const T*>(from)[i];
}

// Block row y moves the rows of slot y.
__global__ void __launch_bounds__(kThreads)
    move_kernel(std::byte* rows, int64_t rows_room, const int64_t* counts, std::byte* slots, int64_t room,
                int64_t row_bytes, bool fills) {
  const auto slot = static_cast<int>(blockIdx.y);
  int64_t before = 0;
  for (int r = 0; r < slot; ++r) before += counts[r];
  int64_t count = counts[slot] < room ? counts[slot] : room;
  if (before + count > rows_room) count = before < rows_room ? rows_room - before : 0;
  std::byte* in_rows = rows + before * row_bytes;
  std::byte* in_slot = slots + slot * room * row_bytes;
  const std::byte* from = fills ? in_rows : in_slot;
  std::byte* to = fills ? in_slot : in_rows;
  const int64_t bytes = count * row_bytes;
  if ((reinterpret_cast<uint64_t>(from) | reinterpret_cast<uint64_t>(to) | static_cast<uint64_t>(bytes)) %
          16 ==
      0)
    copy_as<uint4>(from, to, bytes);
  else
    copy_as<uint8_t>(from, to, bytes);
}

void move(const RowSlots& shape, std::byte* rows, int64_t rows_room, const int64_t* counts, std::byte* slots,
          bool fills) {
  enter(shape.device);
  const dim3 blocks(kBlocksPerSlot, static_cast<unsigned>(shape.ranks));
  move_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(shape.stream)>>>(
      rows, rows_room, counts, slots, shape.room, shape.row_bytes, fills);
  check(cudaGetLastError(), "move_kernel", shape.device);
}

}  // namespace

void enter(int device) {
  check(cudaSetDevice(device), "cudaSetDevice", device);
}

void fill_slots(const RowSlots& shape, const std::byte* rows, const int64_t* counts, std::byte* slots) {
  move(shape, const_cast<std::byte*>(rows), shape.room * shape.ranks, counts, slots, true);
}

void empty_slots(const RowSlots& shape, const std::byte* slots, const int64_t* counts, std::byte* rows,
                 int64_t rows_room) {
  move(shape, rows, rows_room, counts, const_cast<std::byte*>(slots), false);
}

}  // namespace chorale::comm::nccl
