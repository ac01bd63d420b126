// Rows of which the device alone knows how many there are, in slots of one size, since NCCL wants sizes from
// the host. Plain C++; a build without CUDA has comm/no_cuda.cpp in place of row_slots.cu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chorale::comm::nccl {

struct RowSlots {
  int device = 0;
  void* stream = nullptr;  // a cudaStream_t
  int ranks = 1;
  int64_t room = 0;  // rows of a slot
  int64_t row_bytes = 0;
  int64_t slot_bytes() const { return room * row_bytes; }
};

// Makes the device the calling thread's current one.
void enter(int device);

// slot r = the rows for rank r, of which there are counts[r] in `rows`, one after the other.
void fill_slots(const RowSlots& shape, const std::byte* rows, const int64_t* counts, std::byte* slots);
// rows = those of all slots, one after the other, as far as there is room for them.
void empty_slots(const RowSlots& shape, const std::byte* slots, const int64_t* counts, std::byte* rows,
                 int64_t rows_room);

}  // namespace chorale::comm::nccl
