// Memory that all ranks of one host share: what MPI does not tell, namely who has come to an operation, who
// waits, and who has failed.
//
// Each rank writes its own entries; all functions but the constructor and free() may be called by any thread
// and do without MPI. Ranks of other hosts are unknown here.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi/check.h"

namespace chorale::comm::mpi {

class NoticeBoard {
 public:
  // Groups of one rank that can be followed; operations of further ones leave no trace.
  static constexpr int kMaxGroups = 61;

  // Collective over all ranks of `world`. Throws CollectiveError when MPI fails.
  explicit NoticeBoard(MPI_Comm world);
  // Collective over the ranks of one host; no other function may be called after it.
  void free();

  // This rank has come to its next operation in a group. Returns how many that makes.
  uint64_t arrive(int group);
  void set_waiting(bool waiting);
  // This rank runs: to be called again and again while it waits. To arrive is a sign of life, too.
  void show_life();

  // The rank of this host, other than this one, that has shown no life for longest, where that is longer than
  // `time`: a process that is stopped, or that is busy with something else. What it has arrived at says
  // nothing of it, because a process can be stopped while it waits, and then those that wait for it in turn
  // stand where it stands.
  std::optional<int> silent(std::chrono::nanoseconds time) const;

  // The member of a group (ranks of the world) that keeps the rest waiting: a rank that has come
  // to fewer operations than `arrivals` and does not itself wait in another group; else any rank of this host
  // that waits for nobody; else a rank that has not come. None when all members on this host have come.
  std::optional<int> missing(int group, const std::vector<int>& members, uint64_t arrivals) const;

  // The first failure is kept. Its text may be cut.
  void fail(const CollectiveError& error);
  std::optional<CollectiveError> failure() const;

 private:
  struct Entry;
  struct Board;

  // Where a rank of the world writes; null for one of another host.
  Entry* entry(int world_rank) const;

  MPI_Win window_ = MPI_WIN_NULL;
  Board* board_ = nullptr;
  Entry* entries_ = nullptr;  // one for each rank of this host
  std::vector<int> places_;   // where each rank of the world stands in entries_; -1: on another host
  Entry* mine_ = nullptr;
};

}  // namespace chorale::comm::mpi
