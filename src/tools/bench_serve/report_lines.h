// Lines of a block of results, in the form of sglang.bench_serving.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "tools/bench_serve/metrics.h"

namespace chorale::bench_serve {

template <typename Value>
std::string line(std::string_view name, const Value& value) {
  return fmt::format("{:<40} {}\n", name, value);
}

inline std::string rounded(double value) {
  return fmt::format("{:.2f}", value);
}

// A line across the block with the title in its middle.
inline std::string section(std::string_view title, char fill) {
  constexpr size_t kWidth = 50;
  const size_t left = (kWidth - title.size()) / 2;
  std::string text(left, fill);
  text += title;
  text.append(kWidth - title.size() - left, fill);
  return text + "\n";
}

// 0.00 where there are no values.
inline std::string times(std::string_view title, std::string_view name,
                         const std::optional<Statistics>& statistics) {
  const Statistics s = statistics.value_or(Statistics{});
  std::string text = section(title, '-');
  text += line(fmt::format("Mean {} (ms):", name), rounded(s.mean));
  text += line(fmt::format("Median {} (ms):", name), rounded(s.median));
  text += line(fmt::format("P99 {} (ms):", name), rounded(s.p99));
  return text;
}

}  // namespace chorale::bench_serve
