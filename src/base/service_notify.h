// What a service manager (systemd, Type=notify) is told: datagrams to the socket that NOTIFY_SOCKET names, as
// sd_notify(3) describes. Without that variable nobody is told anything.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

namespace chorale {

// "READY=1", "STOPPING=1", "WATCHDOG=1". False when there is nobody to tell or the message could not be sent
// within a second; that is logged at level debug and otherwise of no consequence.
bool notify_service(std::string_view state);

// How often at least the manager wants to hear WATCHDOG=1 from this process; nullopt: it does not.
std::optional<std::chrono::microseconds> service_watchdog();

// Decides whether work goes on. Not thread-safe.
class ProgressWatch {
 public:
  using Time = std::chrono::steady_clock::time_point;
  ProgressWatch(std::chrono::microseconds limit, Time now) : limit_(limit), last_(now) {}

  // False when there was work and the counter has stood still for the limit.
  bool goes_on(bool has_work, uint64_t counter, Time now);

 private:
  std::chrono::microseconds limit_;
  Time last_;  // without work, or when the counter was seen to move
  uint64_t counter_ = 0;
};

}  // namespace chorale
