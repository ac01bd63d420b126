// Server-sent events, from the bytes of a stream in pieces of any size.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace chorale::bench_serve {

// Not thread-safe.
class SseParser {
 public:
  using OnData = std::function<void(std::string_view data)>;

  // Calls on_data for each event that ends in these bytes with its data: its lines "data:", joined by line
  // breaks. Comments, other fields, and events without data are skipped. False, and nothing more is read,
  // when an event is longer than `max_event_bytes`.
  [[nodiscard]] bool push(std::string_view bytes, const OnData& on_data);

  explicit SseParser(size_t max_event_bytes = kMaxEventBytes) : max_event_bytes_(max_event_bytes) {}

 private:
  static constexpr size_t kMaxEventBytes = size_t{1} << 24;

  void end_line(const OnData& on_data);

  size_t max_event_bytes_;
  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool after_return_ = false;  // a line feed now belongs to the carriage return before it
  bool is_broken_ = false;
};

}  // namespace chorale::bench_serve
