// A few threads for work that would hold up those that serve connections: parsing and tokenizing, or
// compiling grammars, which would hold up even the others.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace chorale::server {

// Thread-safe. Small work, by the bytes that it works on, begins in the order in which it came, and has a
// thread that takes nothing else where there are several. Large work waits the longer the larger it is, and
// has half of the threads at most: so much memory is taken at a time and no more.
class WorkQueue {
 public:
  // Of one piece of work; unique.
  using Id = uint64_t;

  // max_waiting: pieces of work that have not begun.
  WorkQueue(int num_threads, size_t max_waiting);
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Waits for what has begun, drops what has not, and takes no more. May be called more than once.
  void stop();

  // The work must not throw. nullopt, and it is dropped, when as much waits as may; after stop() it is
  // dropped, too.
  std::optional<Id> post(uint64_t bytes, std::function<void()> work);

  // Drops the work if it has not begun.
  void drop(Id id);

 private:
  using Clock = std::chrono::steady_clock;
  using Place = std::pair<Clock::time_point, Id>;  // in the order of work
  using Waiting = std::map<Place, std::function<void()>>;

  void loop();
  // Of what may begin now, the first; nullptr: there is none.
  Waiting* next();

  const size_t max_waiting_;
  const int max_large_;  // at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  Waiting small_;
  Waiting large_;
  std::map<Id, Place> places_;
  Id next_id_ = 1;
  int large_running_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace chorale::server
