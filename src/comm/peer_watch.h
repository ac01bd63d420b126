// Notices at once when another process of this machine has ended, whatever way it ended.
//
// Thread-safe. Where the kernel does not offer pidfd_open, or forbids it, nothing is ever noticed.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <span>
#include <vector>

#include <sys/types.h>

namespace chorale::comm {

class PeerWatch {
 public:
  struct Peer {
    int rank = 0;  // not negative
    pid_t pid = 0;
  };

  // The processes must be alive. Throws Error when the process may open no more files.
  explicit PeerWatch(std::span<const Peer> peers);
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  // The rank of the peer that ended first, as far as that can be told. Waits up to `time` until one ends.
  // Allocates nothing.
  std::optional<int> dead_peer(std::chrono::nanoseconds time = {}) const;

  // How many of the peers can be watched.
  int size() const { return static_cast<int>(fds_.size()); }

 private:
  int ready_ = -1;  // an epoll of all, which tells them in the order in which they ended
  std::vector<int> fds_;
  mutable std::atomic<int> first_{-1};
};

}  // namespace chorale::comm
