// Tells on standard error how far a long piece of work is: a bar at a terminal, else a log line every few
// seconds.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace chorale {

// What is counted: bytes, or parts of the work that take about equal time and are shown as a percentage
// alone.
enum class ProgressUnit { bytes, part };

// "Loading weights  [#######-----]  58%  16.1 MB of 27.8 MB, 2.31 GB/s, 3 s left"
std::string progress_line(const std::string& label, uint64_t done, uint64_t total, double seconds,
                          int bar_width, ProgressUnit unit = ProgressUnit::bytes);

// One at a time. The destructor ends the bar's line.
class ProgressBar {
 public:
  ProgressBar(std::string label, uint64_t total, bool enabled, ProgressUnit unit = ProgressUnit::bytes);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // From any thread.
  void add(uint64_t amount) { done_.fetch_add(amount, std::memory_order_relaxed); }
  uint64_t done() const { return done_.load(std::memory_order_relaxed); }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  void show() const;
  void run();

  const std::string label_;
  const uint64_t total_;
  const ProgressUnit unit_;
  const bool at_terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<uint64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace chorale
