#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tools/bench_serve/histogram.h"
#include "tools/bench_serve/report.h"
#include "tools/report/charts.h"
#include "tools/report/page.h"

namespace chorale::bench_serve {
namespace {

constexpr int kBins = 20;

// Three digits that count, or all digits of a whole number.
std::string plain_number(double value) {
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

std::string range_label(const Histogram& histogram, size_t bin) {
  const std::string start = fmt::format("{:.10g}", histogram.start(bin));
  if (histogram.has_tail && bin + 1 == histogram.counts.size()) return start + " and more";
  return fmt::format("{} to {:.10g}", start, histogram.start(bin + 1));
}

std::string distribution(const char* title, const char* what, std::vector<double> values) {
  if (values.empty()) return "";
  std::sort(values.begin(), values.end());
  const Histogram histogram = make_histogram(values, kBins);
  tools::BarChart chart{.title = title,
                        .subtitle = fmt::format("{}: how many, by milliseconds", what),
                        .series = {fmt::format("{} values", values.size())},
                        .format = plain_number};
  for (size_t bin = 0; bin < histogram.counts.size(); ++bin) {
    chart.labels.push_back(range_label(histogram, bin));
    chart.values.push_back({static_cast<double>(histogram.counts[bin])});
  }
  return tools::draw(chart);
}

std::string charts(const Samples& samples) {
  return distribution("Time to first token", "From sending a request to the first event with text",
                      samples.ttft) +
         distribution("Time per output token", "After the first one, the mean of each request",
                      samples.tpot) +
         distribution("Inter-token latency", "From an event with text to the next of its request",
                      samples.itl) +
         distribution("End-to-end latency", "From sending a request to the last event", samples.e2e);
}

std::string table_row(const char* name, const std::optional<Statistics>& statistics) {
  if (!statistics) return fmt::format("<tr><td>{}</td><td colspan=\"7\">no values</td></tr>\n", name);
  const Statistics& s = *statistics;
  std::string row = fmt::format("<tr><td>{}</td>", name);
  for (const double value : {s.mean, s.standard_deviation, s.median, s.p90, s.p95, s.p99, s.max})
    row += fmt::format("<td>{:.2f}</td>", value);
  return row + "</tr>\n";
}

std::string table(const Metrics& m) {
  return "<thead><tr><th></th><th colspan=\"7\">milliseconds</th></tr>\n"
         "<tr><th></th><th>mean</th><th>std</th><th>median</th><th>P90</th><th>P95</th><th>P99</th>"
         "<th>max</th></tr></thead>\n<tbody>\n" +
         table_row("End-to-end latency", m.e2e) + table_row("Time to first token (TTFT)", m.ttft) +
         table_row("Time per output token (TPOT)", m.tpot) + table_row("Inter-token latency (ITL)", m.itl) +
         "</tbody>\n";
}

std::string verdict(const Metrics& m) {
  if (m.completed == 0) return "No request succeeded.";
  const std::string speed = fmt::format("{} output and {} input tokens per second, {} requests per second",
                                        plain_number(m.output_throughput), plain_number(m.input_throughput),
                                        plain_number(m.request_throughput));
  return m.failed == 0 ? speed + "." : fmt::format("{}; {} requests failed.", speed, m.failed);
}

std::string load_text(const Report& report) {
  const std::string rate = std::isinf(report.request_rate)
                               ? "all at once"
                               : fmt::format("{} per second, as a Poisson process", report.request_rate);
  return report.max_concurrency ? fmt::format("{}, at most {} at a time", rate, *report.max_concurrency)
                                : rate;
}

tools::ReportFacts facts(const Report& report) {
  const Metrics& m = report.metrics;
  return {
      {"Model", report.model},
      {"Server", fmt::format("{}, /v1/{}", report.server,
                             report.endpoint == "chat" ? "chat/completions" : "completions")},
      {"Workload", fmt::format("{}, seed {}", report.workload, report.seed)},
      {"Arrivals", load_text(report)},
      {"Requests", fmt::format("{} succeeded, {} failed, in {:.2f} s", m.completed, m.failed, m.duration)},
      {"Tokens", fmt::format("{} input, {} output", m.input_tokens, m.output_tokens)},
      {"Concurrency", fmt::format("{:.2f} on average, {} at most", m.concurrency, m.peak_concurrency)},
      {"Load from", tools::describe(report.machine)},
      {"Program", "Chorale " + report.version},
      {"Date", report.date}};
}

}  // namespace

std::string report_html(const Report& report) {
  std::vector<std::string> notes = {
      "Times are of requests that succeeded, from the moment when the client began to connect."};
  notes.insert(notes.end(), report.notes.begin(), report.notes.end());
  for (const CountedError& error : report.errors)
    notes.push_back(fmt::format("{} failed: {}", error.count, error.message));
  return tools::report_page({.title = "Serving benchmark: " + report.model,
                             .heading = "Serving benchmark of " + report.model,
                             .verdict = verdict(report.metrics),
                             .is_bad = report.metrics.failed > 0 || report.metrics.completed == 0,
                             .facts = facts(report),
                             .table = table(report.metrics),
                             .notes = notes,
                             .charts = charts(report.metrics.samples)});
}

}  // namespace chorale::bench_serve
