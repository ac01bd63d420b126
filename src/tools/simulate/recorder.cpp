#include "tools/simulate/recorder.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace chorale::simulate {
namespace {

double to_seconds(Time time) {
  return static_cast<double>(time.count()) / 1e9;
}

}  // namespace

size_t Recorder::start(Time now, int64_t prompt_tokens) {
  if (free_.empty()) {
    free_.push_back(live_.size());
    live_.emplace_back();
  }
  const size_t request = free_.back();
  free_.pop_back();
  live_[request] = {.sent = now, .prompt_tokens = prompt_tokens};
  set_held(now, kv_tokens_, running_);
  ++in_flight_;
  peak_in_flight_ = std::max(peak_in_flight_, in_flight_);
  ++windows_.at(now).arrived;
  note_waiting();
  return request;
}

void Recorder::refuse(size_t request, const std::string& why) {
  free_.push_back(request);
  --in_flight_;
  ++failed_;
  const auto known = std::ranges::find(errors_, why, &bench_serve::CountedError::message);
  if (known == errors_.end()) {
    errors_.push_back({why, 1});
  } else {
    ++known->count;
  }
}

void Recorder::take_token(size_t request, Time now, double queue_seconds, bool is_last) {
  Live& live = live_[request];
  Window& window = windows_.at(now);
  ++window.output_tokens;
  if (live.output_tokens++ == 0) {
    live.first = now;
    ttft_.add(now - live.sent);
    queue_.add(Time(std::llround(queue_seconds * 1e9)));
    ++window.first_tokens;
    window.ttft_seconds += to_seconds(now - live.sent);
  } else {
    itl_.add(now - live.last);
  }
  live.last = now;
  if (is_last) end(request, now);
}

void Recorder::end(size_t request, Time now) {
  const Live& live = live_[request];
  const Time latency = now - live.sent;
  e2e_.add(latency);
  if (live.output_tokens > 1) tpot_.add((now - live.first) / (live.output_tokens - 1));
  ++windows_.at(now).ended;
  ++completed_;
  input_tokens_ += live.prompt_tokens;
  output_tokens_ += live.output_tokens;
  in_flight_seconds_ += to_seconds(latency);
  last_end_ = std::max(last_end_, now);
  set_held(now, kv_tokens_, running_);
  --in_flight_;
  free_.push_back(request);
}

void Recorder::set_held(Time now, int64_t kv_tokens, int64_t running) {
  CHORALE_CHECK(now >= held_since_, "time goes back from {} ns to {} ns", held_since_.count(), now.count());
  const int64_t waiting = std::max<int64_t>(in_flight_ - running_, 0);
  windows_.add_span(held_since_, now, static_cast<double>(kv_tokens_), static_cast<double>(running_),
                    static_cast<double>(waiting));
  held_since_ = now;
  kv_tokens_ = kv_tokens;
  running_ = running;
  peak_kv_tokens_ = std::max(peak_kv_tokens_, kv_tokens);
  note_waiting();
}

void Recorder::note_waiting() {
  peak_waiting_ = std::max(peak_waiting_, in_flight_ - running_);
}

double Recorder::over_time(double Window::*sum) const {
  double all = 0;
  for (const Window& window : windows_.all()) all += window.*sum;
  return last_end_.count() > 0 ? all / to_seconds(last_end_) : 0;
}

double Recorder::mean_kv_tokens() const {
  return over_time(&Window::kv_token_seconds);
}
double Recorder::mean_running() const {
  return over_time(&Window::running_seconds);
}
double Recorder::mean_waiting() const {
  return over_time(&Window::waiting_seconds);
}

bench_serve::Metrics Recorder::metrics() const {
  bench_serve::Metrics m{.completed = completed_, .failed = failed_, .duration = to_seconds(last_end_)};
  m.input_tokens = input_tokens_;
  m.output_tokens = output_tokens_;
  m.peak_concurrency = peak_in_flight_;
  if (m.duration > 0) {
    m.request_throughput = static_cast<double>(m.completed) / m.duration;
    m.input_throughput = static_cast<double>(m.input_tokens) / m.duration;
    m.output_throughput = static_cast<double>(m.output_tokens) / m.duration;
    m.total_throughput = static_cast<double>(m.input_tokens + m.output_tokens) / m.duration;
    m.concurrency = in_flight_seconds_ / m.duration;
  }
  m.e2e = e2e_.statistics();
  m.ttft = ttft_.statistics();
  m.tpot = tpot_.statistics();
  m.itl = itl_.statistics();
  return m;
}

}  // namespace chorale::simulate
