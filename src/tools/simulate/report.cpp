#include "tools/simulate/report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tools/bench_serve/report.h"
#include "tools/bench_serve/report_lines.h"

namespace chorale::simulate {
namespace {

using bench_serve::line;
using bench_serve::rounded;
using Json = nlohmann::ordered_json;

std::string block(const SimulateReport& report, const Outcome& outcome) {
  std::string text = bench_serve::section(" Simulated Serving Result ", '=');
  text += line("Strategy:", outcome.strategy);
  if (!outcome.result) return text + line("Not simulated:", outcome.error) + bench_serve::section("", '=');
  const SimulationResult& r = *outcome.result;
  text += line("Ranks:", outcome.replicas * outcome.sizes.world());
  text += line("Replicas:", outcome.replicas);
  text += line("Traffic request rate:", report.arrivals);
  text += line("Max request concurrency:",
               report.max_concurrency ? fmt::format("{}", *report.max_concurrency) : "not set");
  text += line("Successful requests:", r.metrics.completed);
  text += line("Failed requests:", r.metrics.failed);
  text += bench_serve::metrics_text(r.metrics);
  text += bench_serve::times("Time in Queue", "Queue Time", r.queue);
  text += line("Mean requests running:", rounded(r.mean_running));
  text += line("Mean requests waiting:", rounded(r.mean_waiting));
  text += line("Peak requests waiting:", r.peak_waiting);
  text += bench_serve::section("KV Cache", '-');
  text += line("Capacity (tokens):", r.kv_tokens_total);
  text += line("Mean usage (%):", rounded(percent(r.mean_kv_tokens, static_cast<double>(r.kv_tokens_total))));
  text +=
      line("Peak usage (%):",
           rounded(percent(static_cast<double>(r.peak_kv_tokens), static_cast<double>(r.kv_tokens_total))));
  text += line("Prompt tokens found in it (%):",
               rounded(percent(static_cast<double>(r.cached_tokens), static_cast<double>(r.prompt_tokens))));
  text += line("Preemptions:", r.preemptions);
  text += line("Steps:", r.steps);
  for (const bench_serve::CountedError& error : r.errors)
    text += fmt::format("{} failed: {}\n", error.count, error.message);
  return text + bench_serve::section("", '=');
}

std::string table_line(const std::string& name, const std::vector<std::string>& cells) {
  std::string text = fmt::format("{:<36}", name);
  for (const std::string& cell : cells) text += fmt::format(" {:>12}", cell);
  return text + "\n";
}

std::string comparison(const SimulateReport& report) {
  std::string text = table_line("strategy", {"replicas", "output tok/s", "median TTFT", "P99 TTFT",
                                             "median ITL", "P99 ITL", "KV peak %"});
  for (const Outcome& outcome : report.outcomes) {
    if (!outcome.result) {
      text += fmt::format("{:<36} {}\n", outcome.strategy, outcome.error);
      continue;
    }
    const SimulationResult& r = *outcome.result;
    const auto ttft = r.metrics.ttft.value_or(bench_serve::Statistics{});
    const auto itl = r.metrics.itl.value_or(bench_serve::Statistics{});
    text += table_line(
        outcome.strategy,
        {fmt::format("{}", outcome.replicas), rounded(r.metrics.output_throughput), rounded(ttft.median),
         rounded(ttft.p99), rounded(itl.median), rounded(itl.p99),
         rounded(percent(static_cast<double>(r.peak_kv_tokens), static_cast<double>(r.kv_tokens_total)))});
  }
  return text + "TTFT and ITL in milliseconds\n";
}

Json window_json(const Window& window, double start, const SimulationResult& result) {
  const double length = result.windows.length();
  const double first_tokens = static_cast<double>(window.first_tokens);
  return {{"start", start},
          {"arrived", window.arrived},
          {"completed", window.ended},
          {"output_tokens", window.output_tokens},
          {"mean_ttft_ms", window.first_tokens > 0 ? Json(window.ttft_seconds * 1e3 / first_tokens) : Json()},
          {"mean_kv_usage", window.kv_token_seconds / length / static_cast<double>(result.kv_tokens_total)},
          {"mean_running", window.running_seconds / length},
          {"mean_waiting", window.waiting_seconds / length}};
}

Json windows_json(const SimulationResult& result) {
  Json windows = Json::array();
  double start = 0;
  for (const Window& window : result.windows.all()) {
    windows.push_back(window_json(window, start, result));
    start += result.windows.length();
  }
  return windows;
}

Json outcome_json(const Outcome& outcome) {
  const parallel::Strategy& s = outcome.sizes;
  Json json = {{"strategy", outcome.strategy}};
  if (!outcome.result) {
    json["error"] = outcome.error;
    return json;
  }
  const SimulationResult& r = *outcome.result;
  const auto total = static_cast<double>(r.kv_tokens_total);
  json["sizes"] = parallel::to_string(s);
  json["replicas"] = outcome.replicas;
  json["ranks"] = outcome.replicas * s.world();
  json.update(bench_serve::metrics_json(r.metrics));
  for (const auto& [name, value] : {std::pair("mean_queue_ms", &bench_serve::Statistics::mean),
                                    std::pair("median_queue_ms", &bench_serve::Statistics::median),
                                    std::pair("p99_queue_ms", &bench_serve::Statistics::p99),
                                    std::pair("max_queue_ms", &bench_serve::Statistics::max)})
    json[name] = r.queue ? Json((*r.queue).*value) : Json();
  json["mean_running"] = r.mean_running;
  json["mean_waiting"] = r.mean_waiting;
  json["peak_waiting"] = r.peak_waiting;
  json["kv_tokens_per_group"] = outcome.kv_tokens_per_group;
  json["kv_tokens_total"] = r.kv_tokens_total;
  json["mean_kv_usage"] = percent(r.mean_kv_tokens, total) / 100;
  json["peak_kv_usage"] = percent(static_cast<double>(r.peak_kv_tokens), total) / 100;
  json["prompt_tokens"] = r.prompt_tokens;
  json["cached_tokens"] = r.cached_tokens;
  json["preemptions"] = r.preemptions;
  json["steps"] = r.steps;
  json["errors"] = Json::array();
  for (const bench_serve::CountedError& error : r.errors)
    json["errors"].push_back({{"message", error.message}, {"count", error.count}});
  json["window_seconds"] = r.windows.length();
  json["windows"] = windows_json(r);
  return json;
}

}  // namespace

double percent(double part, double whole) {
  return whole > 0 ? 100 * part / whole : 0;
}

bool all_simulated(const SimulateReport& report) {
  return std::ranges::all_of(report.outcomes,
                             [](const Outcome& outcome) { return outcome.result.has_value(); });
}

std::string report_text(const SimulateReport& report) {
  std::string text;
  for (const Outcome& outcome : report.outcomes) text += block(report, outcome);
  if (report.outcomes.size() > 1) text += comparison(report);
  for (const std::string& note : report.notes) text += note + "\n";
  return text;
}

std::string report_json(const SimulateReport& report, int indent) {
  Json json = {{"simulated", true},
               {"model", report.model},
               {"machine", report.machine},
               {"workload", report.workload},
               {"arrivals", report.arrivals},
               {"router", report.router},
               {"max_concurrency", report.max_concurrency ? Json(*report.max_concurrency) : Json()},
               {"seed", report.seed},
               {"strategies", Json::array()}};
  for (const Outcome& outcome : report.outcomes) json["strategies"].push_back(outcome_json(outcome));
  json["notes"] = report.notes;
  json["version"] = report.version;
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace chorale::simulate
