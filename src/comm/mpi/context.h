// What the groups of an MpiWorld share: how a rank waits, and what ends the waiting.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi/check.h"
#include "comm/mpi/mpi_world.h"
#include "comm/mpi/notice_board.h"
#include "comm/peer_watch.h"

namespace chorale::comm::mpi {

// One call of an operation by this rank.
struct Call {
  int group = 0;  // on the notice board
  const std::vector<int>* members = nullptr;
  uint64_t arrivals = 0;
  bool limited = true;  // in time
  std::chrono::nanoseconds longest_pause = std::chrono::milliseconds(1);
};

class Context {
 public:
  // Collective over the ranks of `world`. can_spin: every rank of this host has a core of its own.
  Context(MPI_Comm world, const MpiOptions& options, std::span<const PeerWatch::Peer> peers, bool can_spin)
      : options_(options), spins_(can_spin ? kSpins : 0), peers_(peers), board_(world) {}

  size_t piece_bytes() const { return options_.piece_bytes; }
  NoticeBoard& board() { return board_; }
  const PeerWatch& peers() const { return peers_; }

  // Throws when the world has failed or been left.
  void check_usable();
  // Unless the code says success: throws and remembers what MPI says, or better, whose failure it is.
  void check(int code, const char* operation);
  // Completes the requests; throws CollectiveError when the world fails first. They are then left behind, and
  // since nobody calls MPI any more, nothing is written to their buffers.
  void wait(std::span<MPI_Request> requests, const Call& call);

  // Entries of the notice board from this one on are free.
  int next_group() const { return next_group_; }
  void use_group(int group) { next_group_ = group + 1; }

  bool failed() const { return failure_.has_value(); }
  // From any thread, and without MPI: whose failure is known. Waits up to `time` for a peer to die.
  std::optional<CollectiveError> look_for_failure(std::chrono::nanoseconds time) const;

  // No operation is possible from now on.
  void close() { closed_ = true; }

 private:
  // Tests before a rank gives way to others: some tens of microseconds.
  static constexpr int kSpins = 200;

  bool test(std::span<MPI_Request> requests);
  void sleep_and_wait(std::span<MPI_Request> requests, const Call& call);
  CollectiveError late(const Call& call);
  [[noreturn]] void fail(CollectiveError error);

  const MpiOptions options_;
  const int spins_;
  const PeerWatch peers_;
  NoticeBoard board_;
  std::optional<CollectiveError> failure_;
  bool closed_ = false;
  int next_group_ = 1;  // the world has the first
};

}  // namespace chorale::comm::mpi
