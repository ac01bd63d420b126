// The ranks of a world as threads of one process.
//
// A rank's transport is used by one thread at a time; transports of different ranks are used by different
// threads, because every operation waits for the other ranks. Data is copied and added straight from the
// other ranks' buffers. A rank that waits for another spins a little where every rank has a core of its own,
// then sleeps in the kernel. Operations allocate nothing; split does.
//
// Errors: every operation throws CollectiveError once a rank has failed, in the world and in every group that
// was split from it. Output buffers are then undefined.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace chorale::comm {

namespace local {
class World;
}

class LocalWorld {
 public:
  // size: 1 to kMaxRanks. time_limit: how long a rank waits for the others in one operation; 0: for ever.
  explicit LocalWorld(int size, std::chrono::milliseconds time_limit = kDefaultTimeLimit);
  ~LocalWorld();
  LocalWorld(const LocalWorld&) = delete;
  LocalWorld& operator=(const LocalWorld&) = delete;

  int size() const;

  // Rank `rank` of the world; the same object in every call. It may outlive this object.
  std::shared_ptr<Transport> transport(int rank) const;

  // From any thread: a rank is lost, for example because its thread ended with an exception. Every rank that
  // waits for another or comes to an operation later gets CollectiveError with this rank and reason. The
  // first failure is kept, later ones are not. world_rank: -1 when it is not known.
  void fail(int world_rank, std::string_view reason);

  // From any thread: what the ranks are told, once one has failed.
  std::optional<CollectiveError> failure() const;

 private:
  std::shared_ptr<local::World> world_;
  std::vector<std::shared_ptr<Transport>> ranks_;
};

}  // namespace chorale::comm
