// The ranks of a world as processes that mpirun has started, on one host or several.
//
// One object per process: MPI can be started once. The world's transport and all groups that are split from
// it are used by one thread at a time, all together; the other functions below say when they differ. A rank
// that waits spins a little where every rank has a core of its own, then yields, then sleeps for longer and
// longer pauses, of which the longest is 1 ms, and 2 ms in a broadcast.
//
// Errors: operations throw CollectiveError when MPI fails, when a rank does not come in time, and at once
// when a process on this host ends. From then on every operation throws it. A process that cannot go on ends
// itself, and mpirun then ends the others.
//
// A build without MPI has these functions too; they throw Error.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace chorale::comm {

struct MpiOptions {
  // How long a rank waits for the others in one operation; 0: for ever.
  std::chrono::milliseconds time_limit = kDefaultTimeLimit;
  // Longer messages go in pieces, because MPI counts in ints. A multiple of 8 from 8 to 2^30.
  size_t piece_bytes = size_t{1} << 30;
};

class MpiWorld {
 public:
  // Whether this process was started by mpirun or another starter of MPI programs; looks at the environment
  // alone.
  static bool is_launched_by_mpi();

  // What a launcher's variable says of how many processes it has started together, as SLURM_NTASKS=8; the
  // first one there is. Looks at the environment alone, and knows launchers from which MPI may not be
  // reached.
  struct Launch {
    std::string variable;
    int processes = 1;
  };
  static std::optional<Launch> launch();

  // Collective. Throws Error when this build has no MPI or MPI cannot be used.
  explicit MpiWorld(MpiOptions options = {});
  // Collective, unless the world has failed or an exception is on its way: then it leaves at once, without
  // MPI_Finalize, so that it waits for nobody, and mpirun ends the others when this process ends. Transports
  // may outlive this object, but cannot be used.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const;
  int size() const;
  std::shared_ptr<Transport> transport() const;

  // Ascending, with this rank.
  const std::vector<int>& ranks_on_this_host() const;
  const std::string& host_of(int rank) const;

  // From any thread, and without MPI: another rank of this host whose process has ended; waits up to `time`
  // for that. None once the world is being left.
  std::optional<int> dead_peer(std::chrono::nanoseconds time = {}) const;

  // The same, with what the ranks are told. Where one rank's failure made others end, it names the first, and
  // it knows of ranks that live but have failed: those that fail() was called for, or that did not come in
  // time.
  std::optional<CollectiveError> failure(std::chrono::nanoseconds time = {}) const;

  // From any thread, and without MPI: lets the ranks of this host know, as soon as they wait, that a rank
  // (this one, as a rule) is lost and why. The first failure is kept. Ranks of other hosts learn it when
  // mpirun ends them.
  void fail(int world_rank, std::string_view reason);

  // Ends all ranks; mpirun returns the status.
  [[noreturn]] void abort(int status);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::comm
