// How the ranks of a process exchange what lies on their devices, as the options and the devices say.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/device.h"
#include "comm/communicator.h"
#include "comm/local/local_world.h"
#include "comm/nccl/peer_world.h"

namespace chorale::comm {

// How ranks exchange what lies on their devices.
enum class Collectives { automatic, host, peer, nccl };
// Throws Error that names the flag.
Collectives parse_collectives(const std::string& name);

// What a rank has of them.
struct DeviceLink {
  std::shared_ptr<Transport> transport;  // of the world
  std::function<void()> watch;           // of its queue (Queue::set_watch); may be empty
};

class DeviceLinks {
 public:
  // devices: each rank's. The world must outlive it. Throws Error that names --collectives where what was
  // asked for cannot be.
  DeviceLinks(Collectives wanted, std::vector<Device> devices, LocalWorld& world,
              std::chrono::milliseconds time_limit);

  // Collective, by each rank's thread.
  DeviceLink make(int rank);
  // From any thread, when a rank has failed: whoever waits for others on a device gives up.
  void end();

 private:
  std::vector<Device> devices_;
  LocalWorld& world_;
  Collectives kind_;
  std::unique_ptr<PeerWorld> peers_;  // null for other kinds
};

// Of a rank that is a process: what it exchanges with the others beside MPI. Collective.
DeviceLink link_process(std::shared_ptr<Transport> mpi, const Device& device, Collectives wanted,
                        std::function<std::optional<CollectiveError>()> failure);

}  // namespace chorale::comm
