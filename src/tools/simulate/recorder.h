// What a simulation's clients see of their requests, and what its engines hold, over time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench_serve/metrics.h"
#include "tools/simulate/time_counts.h"
#include "tools/simulate/windows.h"

namespace chorale::simulate {

// Not thread-safe.
class Recorder {
 public:
  // A request that is sent; gives the number by which it is told of until it has ended.
  size_t start(Time now, int64_t prompt_tokens);
  // One token of it came, and perhaps that was the last.
  void take_token(size_t request, Time now, double queue_seconds, bool is_last);
  // It was refused, and never counts but as failed.
  void refuse(size_t request, const std::string& why);

  // What all engines hold from now on.
  void set_held(Time now, int64_t kv_tokens, int64_t running);

  // Up to the last end of a request.
  bench_serve::Metrics metrics() const;
  std::optional<bench_serve::Statistics> queue() const { return queue_.statistics(); }
  const std::vector<bench_serve::CountedError>& errors() const { return errors_; }
  const Windows& windows() const { return windows_; }
  double mean_kv_tokens() const;
  int64_t peak_kv_tokens() const { return peak_kv_tokens_; }
  int64_t peak_waiting() const { return peak_waiting_; }
  double mean_running() const;
  double mean_waiting() const;
  int64_t in_flight() const { return in_flight_; }

 private:
  struct Live {
    Time sent{}, first{}, last{};
    int64_t prompt_tokens = 0;
    int64_t output_tokens = 0;
  };

  void end(size_t request, Time now);
  double over_time(double Window::*sum) const;
  void note_waiting();

  std::vector<Live> live_;
  std::vector<size_t> free_;
  int64_t in_flight_ = 0;
  int64_t peak_in_flight_ = 0;

  int64_t completed_ = 0;
  int64_t failed_ = 0;
  int64_t input_tokens_ = 0;
  int64_t output_tokens_ = 0;
  double in_flight_seconds_ = 0;
  Time last_end_{};
  TimeCounts e2e_, ttft_, tpot_, itl_, queue_;
  std::vector<bench_serve::CountedError> errors_;

  Windows windows_;
  Time held_since_{};
  int64_t kv_tokens_ = 0, running_ = 0;
  int64_t peak_kv_tokens_ = 0, peak_waiting_ = 0;
};

}  // namespace chorale::simulate
