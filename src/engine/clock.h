// Where the engine reads the time: that of the machine, or one that a simulation advances.
#pragma once

#include <chrono>
#include <functional>

namespace chorale::engine {

// Never goes back. Called by the engine's thread, and by those that submit requests.
using Clock = std::function<std::chrono::steady_clock::time_point()>;

inline Clock machine_clock() {
  return [] { return std::chrono::steady_clock::now(); };
}

}  // namespace chorale::engine
