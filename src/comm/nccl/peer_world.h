// Collectives of ranks that are threads of one process, each with a GPU, or with others on one, whose kernels
// read each other's memory (peer_kernels.h). What lies in memory of the host goes through a LocalWorld.
//
// A rank that does not come to an operation in time is found by those that wait for it on their devices; the
// host hears of it while it waits for a queue, if that has the rank's watch (Queue::set_watch).
//
// A build without CUDA has these functions too; nothing reaches anything there.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/device.h"
#include "comm/communicator.h"
#include "comm/local/local_world.h"

namespace chorale::comm {

namespace peer {
struct Shared;
}

class PeerWorld {
 public:
  // Whether kernels of each of the devices can read the memory of all others, and there are not too many
  // ranks.
  static bool is_possible(std::span<const Device> devices);

  // devices: each rank's. The world must outlive this object. time_limit: as LocalWorld has it. Throws Error
  // when it is not possible.
  PeerWorld(std::span<const Device> devices, LocalWorld& world, std::chrono::milliseconds time_limit);
  ~PeerWorld();
  PeerWorld(const PeerWorld&) = delete;
  PeerWorld& operator=(const PeerWorld&) = delete;

  // Rank `rank` of the world. Collective: by each rank's own thread. May outlive this object.
  std::shared_ptr<Transport> transport(int rank);

  // For Queue::set_watch of the rank's queues, while this object lives: throws CollectiveError once a rank of
  // the world has failed, or did not come to an operation that this rank waits for; that fails the world.
  std::function<void()> watch(int rank);

  // From any thread: whoever waits for others on a device gives up.
  void end();

 private:
  std::shared_ptr<peer::Shared> shared_;
  LocalWorld& world_;
};

}  // namespace chorale::comm
