// Ctrl-C and SIGTERM for a command that has something to end in order.
#pragma once

#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace chorale::apps {

// Takes SIGINT and SIGTERM from the calling thread and those that it starts later, so make one before any
// other thread. The first signal calls the action with its number, on a thread of this object; where no
// action is set, and for a second signal, the signal has its default effect. One at a time.
class InterruptWatcher {
 public:
  InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;
  ~InterruptWatcher();

  // The action holds until the object returned is destroyed, which waits for the action if it runs.
  class Armed {
   public:
    explicit Armed(InterruptWatcher& watcher) : watcher_(&watcher) {}
    Armed(const Armed&) = delete;
    Armed& operator=(const Armed&) = delete;
    ~Armed() { watcher_->set_action(nullptr); }

   private:
    InterruptWatcher* watcher_;
  };
  [[nodiscard]] Armed on_interrupt(std::function<void(int)> action) {
    set_action(std::move(action));
    return Armed(*this);
  }

 private:
  void set_action(std::function<void(int)> action);
  void watch(const std::stop_token& stop);

  std::mutex mutex_;
  std::function<void(int)> action_;
  std::jthread thread_;
};

}  // namespace chorale::apps
