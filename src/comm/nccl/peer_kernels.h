// The kernels of collectives over peer memory, and what ranks share for them. Plain C++; a build without CUDA
// has comm/no_cuda.cpp in place of peer_kernels.cu.
//
// An operation is one kernel on every rank. Each tells the others where its input lies and that it is ready,
// waits for theirs, reads what it needs straight from their memory, tells them that it has, and waits until
// they have read its own. What is told is a number that counts up: the kernels themselves count, in memory of
// their device, so that a recorded operation may be given again and again.
//
// Blocks that wait for other ranks stay on their multiprocessors meanwhile. So that ranks of one device get
// their turns, all blocks of all ranks must fit on it at once (Group::most_blocks).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace chorale::comm::peer {

inline constexpr int kMaxMembers = 32;  // of a group

// What one member has told another, in the memory of the one that reads it.
struct alignas(64) Slot {
  uint64_t reached = 0;  // its number
  const std::byte* input = nullptr;
  const int64_t* counts = nullptr;
};

// Of one member of a group, in the memory of its device. Starts as zero.
struct GroupMemory {
  uint64_t number = 0;  // that the operations so far have reached
  uint32_t blocks_done = 0;
  Slot slots[kMaxMembers];  // by the member that writes
};

// Of one rank, for all its groups, in the memory of its device. Starts as zero.
struct RankMemory {
  uint32_t has_given_up = 0;  // what comes after it does nothing
};

// Of one rank, in memory of the host that devices can follow. Ranks by their number in the world, and 1 more.
struct alignas(64) RankState {
  int64_t awaits = 0;  // whom it has been waiting for, for a while
  int64_t missed = 0;  // who did not come in time
  int64_t ends = 0;    // written by the host: whoever waits gives up
};

// A rank's place in a group, as its kernels take it.
struct Group {
  int rank = 0;
  int size = 1;
  int most_blocks = 1;
  int64_t limit = 0;  // nanoseconds that it waits for another; 0: for ever
  RankMemory* rank_memory = nullptr;
  RankState* state = nullptr;
  GroupMemory* members[kMaxMembers] = {};
  int world_ranks[kMaxMembers] = {};
};

// Where an operation is to run.
struct Place {
  int device = 0;
  void* stream = nullptr;  // a cudaStream_t
};

// Each throws Error that names the device and CUDA's own words. As DeviceCollectives has them.
void reduce_scatter_sum(const Place& place, const Group& group, const int64_t* values,
                        std::span<const int64_t> counts, int64_t* part);
// On members that want it: all parts.
void gather(const Place& place, const Group& group, const std::byte* part, std::span<const int64_t> sizes,
            std::byte* all, bool wants);
struct Exchange {
  const std::byte* send = nullptr;
  const int64_t* sent_rows = nullptr;
  std::byte* receive = nullptr;
  int64_t* received_rows = nullptr;
  int64_t receive_room = 0;
  int64_t row_bytes = 0;
};
void all_to_all(const Place& place, const Group& group, const Exchange& rows);

// Whether kernels of one device can follow addresses of another's memory.
bool can_reach(int from, int to);
// Lets them, for all memory, from now on.
void let_reach(int from, int to);

}  // namespace chorale::comm::peer
