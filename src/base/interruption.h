// The wish that a long piece of work end early, told from another thread and polled by the work, which then
// leaves by an exception, so that whatever it has open is put in order on the way out.
#pragma once

#include <atomic>
#include <exception>

namespace chorale {

// The work was interrupted. Nobody's fault, therefore no Error: main() ends with status 130.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

// Thread-safe. In a command, apps/interrupt.h makes the signals request it:
//   Interruption interruption;
//   const auto armed = watcher.on_interrupt([&] { interruption.request(); });
class Interruption {
 public:
  void request() noexcept { requested_.store(true, std::memory_order_relaxed); }
  bool requested() const noexcept { return requested_.load(std::memory_order_relaxed); }
  void throw_if_requested() const {
    if (requested()) throw Interrupted();
  }

 private:
  std::atomic<bool> requested_{false};
};

}  // namespace chorale
