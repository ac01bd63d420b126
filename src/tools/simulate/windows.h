// What happened in which part of a simulation, for charts over time.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/simulate/time_counts.h"

namespace chorale::simulate {

struct Window {
  int64_t arrived = 0;          // requests that were sent
  int64_t ended = 0;            // that have their whole answer
  int64_t output_tokens = 0;    // that came
  int64_t first_tokens = 0;     // requests whose first token came
  double ttft_seconds = 0;      // theirs, in all
  double kv_token_seconds = 0;  // tokens in the KV caches, over time
  double running_seconds = 0;   // requests that are computed, over time
  double waiting_seconds = 0;   // requests that are not, over time

  Window& operator+=(const Window& other);
};

// Windows of equal length from the start on: at most kMost, whose length grows with the time that is covered
// through 1, 5 and 10 milliseconds, ..., 1, 5, 10 and 30 seconds, and so on. A value.
class Windows {
 public:
  static constexpr size_t kMost = 48;

  // The one that holds the time; valid until the next call.
  Window& at(Time time);
  // Adds what was so from `start` to `end`, in tokens and requests.
  void add_span(Time start, Time end, double kv_tokens, double running, double waiting);

  double length() const;  // seconds
  const std::vector<Window>& all() const { return windows_; }

 private:
  std::vector<Window> windows_;
  size_t step_ = 0;             // of the table of lengths
  int64_t length_ = 1'000'000;  // nanoseconds
};

}  // namespace chorale::simulate
