// How rank 0 tells the other processes of an MPI world what to do, and hears what came of it; and the groups
// that ranks form, which MPI keeps to its end and which are therefore made once for each size.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/stream.h"
#include "base/thread_pool.h"
#include "comm/communicator.h"
#include "comm/device_links.h"
#include "comm/mpi/mpi_world.h"
#include "model/rank_plan.h"
#include "parallel/topology.h"

namespace chorale::engine {

enum class RankWork : int64_t {
  stop,
  // For the ranks that run (mpi_runner.h):
  forward,
  sample,
  expert_load,
  fetch_experts,
  fetched_experts,
  place_experts,
  // For a change to other ranks (mpi_ranks.h):
  plan_ranks,
  make_ranks,
  ask_ranks,
  drop_ranks,
  take_over,
};

// What is to be done next, with a number that belongs to it, and numbers that follow.
struct Announcement {
  RankWork work = RankWork::stop;
  int64_t value = 0;
  int64_t size = 0;  // numbers that follow
};

// What came of a rank's part of something.
struct Outcome {
  enum class State : int64_t { pending, done, failed };
  State state = State::done;
  int64_t value = 0;
  char reason[488] = {};  // of a failure; a long one is cut
};
static_assert(std::is_trivially_copyable_v<Outcome>);
Outcome failed_outcome(std::string_view reason);

// Whether any is pending. Throws Error "rank 3: the reason" for the first failure once none is.
bool any_pending(std::span<const Outcome> outcomes);

struct MpiGroups {
  comm::Communicator leaders;  // the first ranks of all data-parallel groups; another one of all other ranks
  model::RankGroups ranks;
};

// Used by one thread at a time.
class MpiChannel {
 public:
  // The world must outlive it. link: what ranks exchange goes through, as link_process() gives it.
  MpiChannel(comm::MpiWorld& mpi, comm::DeviceLink link);
  // On rank 0 after begin(), tells the others to stop, unless something has failed.
  ~MpiChannel();
  MpiChannel(const MpiChannel&) = delete;
  MpiChannel& operator=(const MpiChannel&) = delete;

  // On rank 0: from now on the others wait for what they are told.
  void begin() { is_begun_ = true; }

  int rank() const { return world_.rank(); }
  comm::MpiWorld& mpi() const { return mpi_; }
  const std::function<void()>& watch() const { return watch_; }  // of this rank's queues; may be empty
  const comm::Communicator& world() const { return world_; }
  const Stream& stream() const { return stream_; }           // for collectives, which compute nothing
  const comm::Traffic& traffic() const { return traffic_; }  // this rank's
  comm::Traffic& traffic() { return traffic_; }

  // What rank 0 does with the others. A failure of it is the world's: throws Error.
  template <typename Drive>
  void drive(const Drive& drive);
  bool failed() const { return failed_; }

  // All throw comm::CollectiveError. On rank 0, within drive(): tells all ranks.
  void tell(RankWork work, int64_t value = 0);
  void tell(RankWork work, std::span<const int32_t> numbers);
  // Tells all ranks that numbers follow, and sends them to a group.
  void tell(RankWork work, std::span<const int32_t> numbers, const comm::Communicator& group);
  // On the others: waits for what comes next, however long.
  Announcement await();
  // The numbers that follow, on the ranks of the group.
  void receive(const Announcement& announcement, std::vector<int32_t>& numbers) const;
  void receive(const Announcement& announcement, std::vector<int32_t>& numbers,
               const comm::Communicator& group) const;
  // On all ranks: every rank's, on rank 0.
  std::vector<Outcome> gather(const Outcome& mine) const;

  // On all ranks: the groups of this rank under a strategy.
  MpiGroups groups_of(const parallel::Topology& topology);

 private:
  comm::MpiWorld& mpi_;
  const std::function<void()> watch_;
  ThreadPool pool_{1};
  Stream stream_;
  comm::Traffic traffic_;
  comm::Communicator world_;
  // By their size: the members follow from that.
  std::map<int, comm::Communicator> attention_, leaders_, experts_;
  bool is_begun_ = false;
  bool failed_ = false;
};

template <typename Drive>
void MpiChannel::drive(const Drive& drive) {
  CHORALE_CHECK(rank() == 0, "rank {} drives", rank());
  try {
    drive();
  } catch (const comm::CollectiveError& error) {
    failed_ = true;
    throw Error(error.what());
  } catch (const std::exception& error) {
    failed_ = true;
    mpi_.fail(rank(), error.what());
    throw;
  }
}

}  // namespace chorale::engine
