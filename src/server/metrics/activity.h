// What the engine has done lately: rates, and the line that the log gets about it.
#pragma once

#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "engine/engine.h"

namespace chorale::server {

// Thread-safe.
class Activity {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // To be called about once a second.
  void sample(const engine::EngineStats& stats, Time now);

  // Tokens made per second over the last ten seconds; 0 before two samples were taken.
  double generation_rate() const;

  // What was done since the last line, or nothing when nothing was and nothing is left to do.
  std::optional<std::string> status_line(const engine::EngineStats& stats, Time now);

 private:
  struct Sample {
    Time time;
    engine::EngineStats stats;
  };

  mutable std::mutex mutex_;
  std::deque<Sample> samples_;
  std::optional<Sample> last_line_;
};

}  // namespace chorale::server
