// Where ranks are: all of them in this process, or one in each of the processes that MPI has started.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/mpi/mpi_world.h"
#include "engine/parallel_plan.h"
#include "parallel/strategy.h"

namespace chorale::engine {

// Throws Error where a launcher has started several processes that do not know of each other through MPI:
// each would serve by itself. Looks at the environment alone. --communicator local says that this is meant.
void check_launcher(const ParallelOptions& options);

class RankProcesses {
 public:
  // Joins MPI's processes where the options, or the launcher, say so. Throws Error as check_launcher() when
  // MPI was not reached.
  RankProcesses(const ParallelOptions& options, const parallel::Strategy& strategy);

  // Throws Error when there are not as many processes as the strategy has ranks.
  void require_world() const;

  // Null when all ranks are in this process.
  comm::MpiWorld* mpi() const { return mpi_.get(); }
  // Whether requests enter at this process, which then also writes the log of all.
  bool is_driver() const { return mpi_ == nullptr || mpi_->rank() == 0; }
  // Ranks whose memory is this process's, in order.
  const std::vector<int>& ranks_here() const { return ranks_here_; }
  // Processes that share this host's memory and cores.
  int num_on_this_host() const;
  // [world]: a number per rank, the same for ranks of one host.
  std::vector<int> host_numbers() const;
  // What every rank can do: the smallest of their numbers. Collective.
  int64_t least_of_all(int64_t mine) const;

 private:
  parallel::Strategy strategy_;
  std::unique_ptr<comm::MpiWorld> mpi_;
  std::vector<int> ranks_here_;
};

}  // namespace chorale::engine
