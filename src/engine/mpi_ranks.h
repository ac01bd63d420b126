// The change of an MPI world to the ranks of another strategy.
//
// Rank 0 tells the others what to do between steps; what takes long is done on threads of their own, while
// steps run:
//   plan   each process finds out what it has room for, or why not
//   make   the groups of the new strategy are made; then each reads the weights of its new rank, and makes
//          its buffers
//   ask    what came of the one before, again and again until all are done; if one has failed, all
//   drop   what they have made. Else
//   take over   the KV cache moves, and the new ranks go on; the old ones are destroyed beside the steps
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/mpi_channel.h"
#include "engine/mpi_runner.h"
#include "engine/prepared_runner.h"
#include "parallel/strategy.h"

namespace chorale::engine {

// How this process makes its rank.
struct RankMaker {
  // Throws Error for what does not fit.
  std::function<LoadPlan(const parallel::Strategy& strategy)> plan;
  // Reads weights. Throws Error. Called on a thread of its own, while the ranks that run do their work.
  std::function<std::unique_ptr<PreparedRunner>(LoadPlan plan, MpiGroups groups)> make;
};

// Used by one thread at a time, but for prepare() and drop().
class MpiRanks {
 public:
  // The channel must outlive it.
  MpiRanks(MpiChannel& channel, RankMaker maker);
  // Waits for what is under way.
  ~MpiRanks() = default;
  MpiRanks(const MpiRanks&) = delete;
  MpiRanks& operator=(const MpiRanks&) = delete;

  // On rank 0, on another thread than that which runs steps: ranks of all processes, which copy_kv() of this
  // process's runner puts in force. Throws Error that names the rank which cannot make its own; then, and
  // after drop(), nothing is left of them in any process.
  std::unique_ptr<PreparedRunner> prepare(const parallel::Strategy& strategy,
                                          const BetweenSteps& between_steps);
  // What was prepared is not put in force.
  void drop(const BetweenSteps& between_steps);

  // On the other ranks: does what rank 0 tells until that is to stop. `ranks` are those that run. Throws
  // comm::CollectiveError that names the rank when one fails.
  void serve(std::unique_ptr<PreparedRunner>& ranks);

 private:
  // On rank 0: what came of all processes' parts, once they are done.
  std::vector<Outcome> wait_for_all(const BetweenSteps& between_steps);

  // This process's part, on the thread that runs steps.
  void plan_own(std::span<const int32_t> strategy);
  void make_own(int64_t kv_tokens);
  Outcome ask_own();
  void drop_own();
  void destroy(std::unique_ptr<PreparedRunner> ranks);
  bool serve(const Announcement& announcement, std::unique_ptr<PreparedRunner>& ranks);

  MpiChannel& channel_;
  const RankMaker maker_;
  std::vector<int32_t> numbers_;
  // What the job writes is read when it is done.
  std::optional<LoadPlan> planned_;
  std::unique_ptr<PreparedRunner> made_;
  Outcome outcome_;               // of the job
  std::future<void> destroying_;  // ranks that ran before
  std::future<Outcome> job_;      // last: it uses the rest
};

}  // namespace chorale::engine
