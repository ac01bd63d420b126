// How the ranks of a process exchange what lies on their devices, as the options and the devices say.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "comm/communicator.h"
#include "comm/local/local_world.h"
#include "comm/nccl/peer_world.h"
#include "engine/runner_parts.h"

namespace chorale::engine {

// What a rank has of them.
struct DeviceLink {
  std::shared_ptr<comm::Transport> transport;  // of the world
  std::function<void()> watch;                 // of its queue (Queue::set_watch); may be empty
};

class DeviceLinks {
 public:
  // The parts and the world must outlive it. Throws Error that names --collectives where what was asked for
  // cannot be.
  DeviceLinks(const RunnerParts& parts, comm::LocalWorld& world, std::chrono::milliseconds time_limit);

  // Collective, by each rank's thread.
  DeviceLink make(int rank);
  // From any thread, when a rank has failed: whoever waits for others on a device gives up.
  void end();

 private:
  const RunnerParts& parts_;
  comm::LocalWorld& world_;
  Collectives kind_ = Collectives::host;
  std::unique_ptr<comm::PeerWorld> peers_;  // null for other kinds
};

// Of a rank that is a process: what it exchanges with the others beside MPI. Collective.
DeviceLink link_process(std::shared_ptr<comm::Transport> mpi, const Device& device, Collectives wanted,
                        std::function<std::optional<comm::CollectiveError>()> failure);

}  // namespace chorale::engine
