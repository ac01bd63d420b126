// Collectives of GPUs through NCCL, for ranks that are threads or processes, with a GPU each. What lies in
// memory of the host goes through the transport that they have anyway.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/device.h"
#include "comm/communicator.h"

namespace chorale::comm {

// Whether the library is there; looks for it the first time.
bool nccl_is_there();
// Throws Error that says how to get it unless it is there.
void require_nccl();
// "2.28.9"; where it is there.
std::string nccl_version();

struct NcclRank {
  std::shared_ptr<Transport> transport;
  // For Queue::set_watch, on the thread that uses the transport: throws CollectiveError when `failure` tells
  // of one, Error when NCCL does. Then the rank's operations under way are ended.
  std::function<void()> watch;
};

// A rank of the group that `host` speaks for. Collective. Throws Error.
NcclRank join_nccl(std::shared_ptr<Transport> host, const Device& device,
                   std::function<std::optional<CollectiveError>()> failure);

}  // namespace chorale::comm
