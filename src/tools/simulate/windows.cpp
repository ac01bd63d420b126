#include "tools/simulate/windows.h"

#include <algorithm>
#include <array>

#include "base/math.h"

namespace chorale::simulate {
namespace {

// How many windows become one: 5, 10, 50, 100, 500 ms, 1, 5, 10, 30 s, 1, 5, 10, 30 min, 1, 3, 6, 12, 24
// hours; then twice as long each time.
constexpr std::array<int64_t, 18> kFactors = {5, 2, 5, 2, 5, 2, 5, 2, 3, 2, 5, 2, 3, 2, 3, 2, 2, 2};
constexpr int64_t kLastFactor = 2;

}  // namespace

Window& Window::operator+=(const Window& other) {
  arrived += other.arrived;
  ended += other.ended;
  output_tokens += other.output_tokens;
  first_tokens += other.first_tokens;
  ttft_seconds += other.ttft_seconds;
  kv_token_seconds += other.kv_token_seconds;
  running_seconds += other.running_seconds;
  waiting_seconds += other.waiting_seconds;
  return *this;
}

Window& Windows::at(Time time) {
  while (time.count() / length_ >= static_cast<int64_t>(kMost)) {
    const int64_t factor = step_ < kFactors.size() ? kFactors[step_] : kLastFactor;
    ++step_;
    length_ *= factor;
    const auto merged = static_cast<size_t>(ceil_div(std::ssize(windows_), factor));
    for (size_t i = 1; i < windows_.size(); ++i) {
      const size_t into = i / static_cast<size_t>(factor);
      const Window window = windows_[i];
      if (i % static_cast<size_t>(factor) == 0) windows_[into] = {};
      windows_[into] += window;
    }
    windows_.resize(merged);
  }
  const auto index = static_cast<size_t>(time.count() / length_);
  if (index >= windows_.size()) windows_.resize(index + 1);
  return windows_[index];
}

void Windows::add_span(Time start, Time end, double kv_tokens, double running, double waiting) {
  if (end <= start) return;
  at(end);  // from here on the length stays
  while (start < end) {
    const Time border((start.count() / length_ + 1) * length_);
    const Time part = std::min(border, end) - start;
    const double seconds = static_cast<double>(part.count()) / 1e9;
    Window& window = at(start);
    window.kv_token_seconds += kv_tokens * seconds;
    window.running_seconds += running * seconds;
    window.waiting_seconds += waiting * seconds;
    start += part;
  }
}

double Windows::length() const {
  return static_cast<double>(length_) / 1e9;
}

}  // namespace chorale::simulate
