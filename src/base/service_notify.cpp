#include "base/service_notify.h"

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

namespace chorale {
namespace {

bool send_to(const char* path, std::string_view state) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  if (length >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return false;
  }
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // Linux's abstract names
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const timeval second{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  const ssize_t sent =
      sendto(fd, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), size);
  const int error = errno;
  close(fd);
  errno = error;
  return sent == static_cast<ssize_t>(state.size());
}

std::optional<int64_t> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return std::nullopt;
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(value) : std::nullopt;
}

}  // namespace

bool notify_service(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return false;
  if (send_to(path, state)) return true;
  log::debug("cannot send {} to {}: {}", state, path, std::strerror(errno));
  return false;
}

std::optional<std::chrono::microseconds> service_watchdog() {
  const std::optional<int64_t> interval = number_in("WATCHDOG_USEC");
  if (!interval || *interval <= 0 || std::getenv("NOTIFY_SOCKET") == nullptr) return std::nullopt;
  const std::optional<int64_t> pid = number_in("WATCHDOG_PID");
  if (std::getenv("WATCHDOG_PID") != nullptr && pid != getpid())
    return std::nullopt;  // meant for another one
  return std::chrono::microseconds(*interval);
}

bool ProgressWatch::goes_on(bool has_work, uint64_t counter, Time now) {
  if (!has_work || counter != counter_) last_ = now;
  counter_ = counter;
  return now - last_ < limit_;
}

}  // namespace chorale
