#include "comm/peer_watch.h"

#include <cerrno>
#include <cstring>
#include <ctime>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

namespace chorale::comm {
namespace {

constexpr int kSyscall = 434;  // pidfd_open, the same number on every architecture; older C libraries lack it

}  // namespace

PeerWatch::PeerWatch(std::span<const Peer> peers) : ready_(epoll_create1(EPOLL_CLOEXEC)) {
  if (ready_ < 0) throw_error("cannot watch the other ranks' processes: {}", std::strerror(errno));
  fds_.reserve(peers.size());
  for (const Peer& peer : peers) {
    const int fd = static_cast<int>(syscall(kSyscall, peer.pid, 0));  // closed on exec by itself
    if (fd < 0) continue;
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = peer.rank;
    if (epoll_ctl(ready_, EPOLL_CTL_ADD, fd, &event) == 0)
      fds_.push_back(fd);
    else
      close(fd);
  }
}

PeerWatch::~PeerWatch() {
  for (const int fd : fds_) close(fd);
  close(ready_);
}

std::optional<int> PeerWatch::dead_peer(std::chrono::nanoseconds time) const {
  if (const int first = first_.load(); first >= 0) return first;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  timespec limit = {};
  limit.tv_sec = static_cast<time_t>(seconds.count());
  limit.tv_nsec = static_cast<long>((time - seconds).count());
  // epoll_wait alone knows no times below a millisecond.
  pollfd all = {.fd = ready_, .events = POLLIN, .revents = 0};
  epoll_event event = {};
  if (ppoll(&all, 1, &limit, nullptr) <= 0 || epoll_wait(ready_, &event, 1, 0) <= 0) return std::nullopt;
  int first = -1;
  if (first_.compare_exchange_strong(first, event.data.fd)) first = event.data.fd;
  return first;
}

}  // namespace chorale::comm
