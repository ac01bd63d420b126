#include <cmath>

#include <fmt/format.h>

#include "tools/bench_serve/report.h"

namespace chorale::bench_serve {
namespace {

constexpr int kWidth = 50;

template <typename Value>
std::string line(const char* name, const Value& value) {
  return fmt::format("{:<40} {}\n", name, value);
}

std::string rounded(double value) {
  return fmt::format("{:.2f}", value);
}

std::string section(const char* title, char fill) {
  const std::string text = title;
  const size_t left = (kWidth - text.size()) / 2;
  return std::string(left, fill) + text + std::string(kWidth - text.size() - left, fill) + "\n";
}

std::string times(const char* title, const char* name, const std::optional<Statistics>& statistics) {
  const Statistics s = statistics.value_or(Statistics{});
  std::string text = section(title, '-');
  text += line(fmt::format("Mean {} (ms):", name).c_str(), rounded(s.mean));
  text += line(fmt::format("Median {} (ms):", name).c_str(), rounded(s.median));
  text += line(fmt::format("P99 {} (ms):", name).c_str(), rounded(s.p99));
  return text;
}

}  // namespace

std::string report_text(const Report& report) {
  const Metrics& m = report.metrics;
  std::string text = section(" Serving Benchmark Result ", '=');
  text += line("Backend:", "openai-" + report.endpoint);
  text += line("Traffic request rate:", report.request_rate);
  text += line("Max request concurrency:",
               report.max_concurrency ? std::to_string(*report.max_concurrency) : "not set");
  text += line("Successful requests:", m.completed);
  text += line("Failed requests:", m.failed);
  text += line("Benchmark duration (s):", rounded(m.duration));
  text += line("Total input tokens:", m.input_tokens);
  text += line("Total generated tokens:", m.output_tokens);
  text += line("Request throughput (req/s):", rounded(m.request_throughput));
  text += line("Input token throughput (tok/s):", rounded(m.input_throughput));
  text += line("Output token throughput (tok/s):", rounded(m.output_throughput));
  text += line("Total token throughput (tok/s):", rounded(m.total_throughput));
  text += line("Concurrency:", rounded(m.concurrency));
  text += times("End-to-End Latency", "E2E Latency", m.e2e);
  text += times("Time to First Token", "TTFT", m.ttft);
  text += times("Time per Output Token (excl. 1st token)", "TPOT", m.tpot);
  text += times("Inter-Token Latency", "ITL", m.itl);
  text += std::string(kWidth, '=') + "\n";
  for (const std::string& note : report.notes) text += note + "\n";
  return text;
}

}  // namespace chorale::bench_serve
