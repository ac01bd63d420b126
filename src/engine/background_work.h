// Work beside the steps that is not to hold them up.
#pragma once

#include <future>
#include <utility>

#include <sys/resource.h>

namespace chorale::engine {

// Does the work on a thread of its own, which gives way to all others of this machine; so do the threads that
// it starts. The future's destructor waits for it.
template <typename Work>
auto in_background(Work work) {
  return std::async(std::launch::async, [work = std::move(work)]() mutable {
    constexpr int kLast = 19;
    setpriority(PRIO_PROCESS, 0, kLast);  // on Linux: of this thread
    return work();
  });
}

}  // namespace chorale::engine
