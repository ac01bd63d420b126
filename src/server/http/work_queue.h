// A few threads for work that would hold up those that serve connections: parsing and tokenizing, or
// compiling grammars, which would hold up even the others.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace chorale::server {

// Thread-safe. Work begins in the order in which it came.
class WorkQueue {
 public:
  // max_waiting: of the work that has not begun.
  explicit WorkQueue(int num_threads, size_t max_waiting = std::numeric_limits<size_t>::max());
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Waits for what has begun, drops what has not, and takes no more. May be called more than once.
  void stop();

  // The work must not throw. False, and it is dropped, when as much waits as may; after stop() it is dropped,
  // too.
  bool post(std::function<void()> work);

 private:
  void loop();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace chorale::server
