#include <algorithm>

#include <fmt/format.h>

#include "tools/report/charts.h"
#include "tools/report/page.h"
#include "tools/simulate/report.h"

namespace chorale::simulate {
namespace {

using bench_serve::Statistics;

// As many as the page has colours.
constexpr size_t kMostSeries = 8;

std::string plain_number(double value) {
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

// 90 -> "1.5 min"
std::string duration_text(double seconds) {
  if (seconds >= 7200) return fmt::format("{:.4g} h", seconds / 3600);
  if (seconds >= 120) return fmt::format("{:.4g} min", seconds / 60);
  return seconds >= 1 || seconds == 0 ? fmt::format("{:.4g} s", seconds)
                                      : fmt::format("{:.4g} ms", seconds * 1e3);
}

std::vector<const Outcome*> shown(const SimulateReport& report) {
  std::vector<const Outcome*> outcomes;
  for (const Outcome& outcome : report.outcomes)
    if (outcome.result && outcomes.size() < kMostSeries) outcomes.push_back(&outcome);
  return outcomes;
}

tools::BarChart chart_of(const std::vector<const Outcome*>& outcomes, const char* title,
                         const std::string& subtitle) {
  tools::BarChart chart;
  chart.title = title;
  chart.subtitle = subtitle;
  chart.format = plain_number;
  for (const Outcome* outcome : outcomes) chart.series.push_back(outcome->strategy);
  return chart;
}

std::string percentiles(const std::vector<const Outcome*>& outcomes, const char* title, const char* what,
                        std::optional<Statistics> (*of)(const SimulationResult&)) {
  tools::BarChart chart = chart_of(outcomes, title, fmt::format("{}: milliseconds", what));
  for (const auto& [name, member] :
       {std::pair("median", &Statistics::median), std::pair("P90", &Statistics::p90),
        std::pair("P99", &Statistics::p99)}) {
    chart.labels.emplace_back(name);
    std::vector<double>& row = chart.values.emplace_back();
    for (const Outcome* outcome : outcomes)
      row.push_back(of(*outcome->result).value_or(Statistics{}).*member);
  }
  return tools::draw(chart);
}

// Windows of strategies that took longer than others are longer; those are drawn apart.
std::string over_time(const std::vector<const Outcome*>& all, const char* title, const char* what,
                      double (*of)(const Window&, const SimulationResult&)) {
  std::string text;
  std::vector<const Outcome*> left = all;
  while (!left.empty()) {
    const double length = left.front()->result->windows.length();
    std::vector<const Outcome*> outcomes, others;
    for (const Outcome* outcome : left)
      (outcome->result->windows.length() == length ? outcomes : others).push_back(outcome);
    tools::BarChart chart =
        chart_of(outcomes, title, fmt::format("{}, in windows of {}", what, duration_text(length)));
    size_t rows = 0;
    for (const Outcome* outcome : outcomes) rows = std::max(rows, outcome->result->windows.all().size());
    for (size_t w = 0; w < rows; ++w) {
      chart.labels.push_back(duration_text(static_cast<double>(w) * length));
      std::vector<double>& row = chart.values.emplace_back();
      for (const Outcome* outcome : outcomes) {
        const std::vector<Window>& windows = outcome->result->windows.all();
        row.push_back(w < windows.size() ? of(windows[w], *outcome->result) : 0);
      }
    }
    text += tools::draw(chart);
    left = std::move(others);
  }
  return text;
}

std::string charts(const SimulateReport& report) {
  const std::vector<const Outcome*> outcomes = shown(report);
  if (outcomes.empty()) return "";
  tools::BarChart speed = chart_of(outcomes, "Throughput", "Output tokens per second, over all replicas");
  speed.labels = {"output"};
  speed.values.emplace_back();
  for (const Outcome* outcome : outcomes)
    speed.values[0].push_back(outcome->result->metrics.output_throughput);
  return tools::draw(speed) +
         percentiles(outcomes, "Time to first token", "From sending a request to its first token",
                     [](const SimulationResult& r) { return r.metrics.ttft; }) +
         percentiles(outcomes, "Inter-token latency", "From a token to the next of its request",
                     [](const SimulationResult& r) { return r.metrics.itl; }) +
         percentiles(outcomes, "Time in the queue", "From sending a request to the step that begins it",
                     [](const SimulationResult& r) { return r.queue; }) +
         over_time(outcomes, "Requests", "Sent per second",
                   [](const Window& w, const SimulationResult& r) {
                     return static_cast<double>(w.arrived) / r.windows.length();
                   }) +
         over_time(outcomes, "Output", "Tokens per second",
                   [](const Window& w, const SimulationResult& r) {
                     return static_cast<double>(w.output_tokens) / r.windows.length();
                   }) +
         over_time(outcomes, "Time to first token over time", "Mean, milliseconds",
                   [](const Window& w, const SimulationResult&) {
                     return w.first_tokens > 0 ? w.ttft_seconds * 1e3 / static_cast<double>(w.first_tokens)
                                               : 0;
                   }) +
         over_time(outcomes, "KV cache", "Percent in use, mean",
                   [](const Window& w, const SimulationResult& r) {
                     return percent(w.kv_token_seconds / r.windows.length(),
                                    static_cast<double>(r.kv_tokens_total));
                   }) +
         over_time(outcomes, "Queue", "Requests that wait, mean",
                   [](const Window& w, const SimulationResult& r) {
                     return w.waiting_seconds / r.windows.length();
                   });
}

std::string table_row(const Outcome& outcome) {
  const std::string name = tools::html_escape(outcome.strategy);
  if (!outcome.result)
    return fmt::format("<tr><td>{}</td><td class=\"error\" colspan=\"10\">{}</td></tr>\n", name,
                       tools::html_escape(outcome.error));
  const SimulationResult& r = *outcome.result;
  const Statistics ttft = r.metrics.ttft.value_or(Statistics{}), itl = r.metrics.itl.value_or(Statistics{}),
                   queue = r.queue.value_or(Statistics{});
  std::string row = fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>", name, outcome.replicas,
                                r.metrics.completed, r.metrics.failed);
  const auto total = static_cast<double>(r.kv_tokens_total);
  for (const double value : {r.metrics.output_throughput, ttft.median, ttft.p99, itl.median, itl.p99,
                             queue.median, percent(static_cast<double>(r.peak_kv_tokens), total)})
    row += fmt::format("<td>{:.2f}</td>", value);
  return row + "</tr>\n";
}

std::string table(const SimulateReport& report) {
  std::string text =
      "<thead><tr><th>strategy</th><th>replicas</th><th>completed</th><th>failed</th><th>output tok/s</th>"
      "<th>median TTFT, ms</th><th>P99 TTFT</th><th>median ITL, ms</th><th>P99 ITL</th>"
      "<th>median queue, ms</th><th>KV peak, %</th></tr></thead>\n<tbody>\n";
  for (const Outcome& outcome : report.outcomes) text += table_row(outcome);
  return text + "</tbody>\n";
}

std::string verdict(const SimulateReport& report) {
  const Outcome* best = nullptr;
  for (const Outcome& outcome : report.outcomes) {
    if (!outcome.result) continue;
    if (best == nullptr ||
        outcome.result->metrics.output_throughput > best->result->metrics.output_throughput)
      best = &outcome;
  }
  if (best == nullptr) return "No strategy could be simulated.";
  const std::string speed =
      fmt::format("{} output tokens per second", plain_number(best->result->metrics.output_throughput));
  return report.outcomes.size() > 1 ? fmt::format("{} has the most: {}.", best->strategy, speed)
                                    : speed + ".";
}

}  // namespace

std::string report_html(const SimulateReport& report) {
  std::vector<std::string> notes = {
      "Nothing was served: the engine's scheduler, block manager and prefix cache ran on a clock that a cost "
      "model advances."};
  notes.insert(notes.end(), report.notes.begin(), report.notes.end());
  tools::ReportFacts facts = {{"Model", report.model},
                              {"Machine", report.machine},
                              {"Workload", report.workload},
                              {"Arrivals", report.arrivals},
                              {"Router", report.router},
                              {"Seed", fmt::format("{}", report.seed)},
                              {"Program", "Chorale " + report.version}};
  return tools::report_page({.title = "Simulation: " + report.model,
                             .heading = "Simulation of " + report.model,
                             .verdict = verdict(report),
                             .is_bad = !all_simulated(report),
                             .facts = std::move(facts),
                             .table = table(report),
                             .notes = notes,
                             .charts = charts(report)});
}

}  // namespace chorale::simulate
