#include <string>

#include "tools/bench_serve/report.h"
#include "tools/bench_serve/report_lines.h"

namespace chorale::bench_serve {

std::string metrics_text(const Metrics& m) {
  std::string text = line("Benchmark duration (s):", rounded(m.duration));
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
  return text;
}

std::string report_text(const Report& report) {
  const Metrics& m = report.metrics;
  std::string text = section(" Serving Benchmark Result ", '=');
  text += line("Backend:", "openai-" + report.endpoint);
  text += line("Traffic request rate:", report.request_rate);
  text += line("Max request concurrency:",
               report.max_concurrency ? std::to_string(*report.max_concurrency) : "not set");
  text += line("Successful requests:", m.completed);
  text += line("Failed requests:", m.failed);
  text += metrics_text(m);
  text += section("", '=');
  for (const std::string& note : report.notes) text += note + "\n";
  return text;
}

}  // namespace chorale::bench_serve
