#include "tools/bench_serve/sse_parser.h"

#include <algorithm>
#include <utility>

namespace chorale::bench_serve {

bool SseParser::push(std::string_view bytes, const OnData& on_data) {
  while (!bytes.empty() && !is_broken_) {
    if (after_return_ && bytes.front() == '\n') bytes.remove_prefix(1);
    after_return_ = false;
    const size_t end = std::min(bytes.find_first_of("\r\n"), bytes.size());
    line_ += bytes.substr(0, end);
    is_broken_ = line_.size() + data_.size() > max_event_bytes_;
    if (is_broken_ || end == bytes.size()) break;
    after_return_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    end_line(on_data);
  }
  return !is_broken_;
}

void SseParser::end_line(const OnData& on_data) {
  const std::string line = std::exchange(line_, {});
  if (line.empty()) {
    const std::string data = std::exchange(data_, {});
    if (std::exchange(has_data_, false)) on_data(data);
    return;
  }
  std::string_view rest = line;
  if (!rest.starts_with("data")) return;
  rest.remove_prefix(4);
  if (!rest.empty() && rest.front() != ':') return;
  if (!rest.empty()) rest.remove_prefix(1);
  if (rest.starts_with(' ')) rest.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += rest;
  has_data_ = true;
}

}  // namespace chorale::bench_serve
