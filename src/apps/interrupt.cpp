#include "apps/interrupt.h"

#include <csignal>
#include <ctime>
#include <utility>

namespace chorale::apps {
namespace {

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

InterruptWatcher::InterruptWatcher() {
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
}

InterruptWatcher::~InterruptWatcher() {
  thread_.request_stop();
  thread_.join();
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void InterruptWatcher::set_action(std::function<void(int)> action) {
  const std::scoped_lock lock(mutex_);
  action_ = std::move(action);
}

void InterruptWatcher::watch(const std::stop_token& stop) {
  const sigset_t set = watched_signals();
  const timespec poll{.tv_sec = 0, .tv_nsec = 50'000'000};
  while (!stop.stop_requested()) {
    const int signal = sigtimedwait(&set, nullptr, &poll);
    if (signal < 0) continue;
    const std::scoped_lock lock(mutex_);
    if (action_) {
      std::exchange(action_, nullptr)(signal);
    } else {
      std::signal(signal, SIG_DFL);
      pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
      std::raise(signal);
    }
  }
}

}  // namespace chorale::apps
