// How much a client takes over time.
#pragma once

#include <chrono>
#include <cstdint>

namespace chorale::server {

// Not thread-safe.
class TakeWindow {
 public:
  using Clock = std::chrono::steady_clock;

  void begin(uint64_t taken) {
    since_ = Clock::now();
    taken_ = taken;
  }
  // Whether less than that many bytes per second have been taken since the begin, and at least `length` ago.
  bool is_slow(uint64_t taken, std::chrono::milliseconds length, uint64_t bytes_per_second) const {
    const auto least = static_cast<uint64_t>(length.count()) * bytes_per_second / 1000;
    return is_over(length) && taken - taken_ < least;
  }
  bool is_over(std::chrono::milliseconds length) const { return Clock::now() - since_ >= length; }

 private:
  Clock::time_point since_;
  uint64_t taken_ = 0;
};

}  // namespace chorale::server
