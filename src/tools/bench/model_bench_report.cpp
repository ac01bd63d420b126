#include "tools/bench/model_bench_report.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/memory_info.h"
#include "tools/machine_json.h"

namespace chorale::bench {
namespace {

using Json = nlohmann::ordered_json;

// Rows of text whose first `left` columns are aligned to the left.
class Table {
 public:
  Table(std::vector<std::string> head, size_t left) : left_(left) { rows_.push_back(std::move(head)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string print(TableForm form) const {
    std::vector<size_t> width(rows_.front().size());
    for (const auto& row : rows_)
      for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
    const bool markdown = form == TableForm::markdown;
    std::string text;
    for (size_t r = 0; r < rows_.size(); ++r) {
      std::vector<std::string> cells;
      for (size_t c = 0; c < width.size(); ++c)
        cells.push_back(c < left_ ? fmt::format("{:<{}}", rows_[r][c], width[c])
                                  : fmt::format("{:>{}}", rows_[r][c], width[c]));
      text += markdown ? fmt::format("| {} |\n", fmt::join(cells, " | "))
                       : fmt::format("{}\n", fmt::join(cells, "  "));
      if (markdown && r == 0) text += separator(width);
    }
    return text;
  }

 private:
  std::string separator(const std::vector<size_t>& width) const {
    std::string text = "|";
    for (size_t c = 0; c < width.size(); ++c)
      text +=
          c < left_ ? fmt::format("{:-<{}}|", "", width[c] + 2) : fmt::format("{:-<{}}:|", "", width[c] + 1);
    return text + "\n";
  }

  size_t left_;
  std::vector<std::vector<std::string>> rows_;
};

std::string work_name(const StepResult& r) {
  return r.phase == "prefill" ? fmt::format("prefill {}", r.tokens)
                              : fmt::format("decode, batch {}", r.sequences);
}

double seconds_of(const OpRecord& op) {
  return std::chrono::duration<double>(op.end - op.begin).count();
}

// All calls of one op.
struct OpTotal {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
  OpWork work;
};

std::vector<OpTotal> totals(std::span<const OpRecord> ops) {
  std::vector<OpTotal> all;
  for (const OpRecord& op : ops) {
    auto found = std::find_if(all.begin(), all.end(), [&](const OpTotal& t) { return t.name == op.name; });
    if (found == all.end()) found = all.insert(all.end(), OpTotal{.name = op.name});
    ++found->calls;
    found->seconds += seconds_of(op);
    found->work.bytes += op.work.bytes;
    found->work.operations += op.work.operations;
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const OpTotal& a, const OpTotal& b) { return a.seconds > b.seconds; });
  return all;
}

// From the begin of the first op to the end of the last.
double step_seconds(std::span<const OpRecord> ops) {
  return std::chrono::duration<double>(ops.back().end - ops.front().begin).count();
}

std::string percent(double fraction) {
  return fmt::format("{:.0f}%", 100 * fraction);
}

Json spread_json(const Spread& spread) {
  return {{"median", spread.median}, {"low", spread.low}, {"high", spread.high}};
}

Json profile_json(const StepResult& r) {
  Json ops = Json::array();
  for (const OpTotal& op : totals(r.ops)) {
    ops.push_back({{"op", op.name},
                   {"calls", op.calls},
                   {"seconds", op.seconds},
                   {"bytes", op.work.bytes},
                   {"operations", op.work.operations},
                   {"fraction_of_ceiling", floor_seconds(op.work, r.ceilings) / op.seconds}});
  }
  return ops;
}

std::string place_of(const ModelBenchReport& report) {
  if (!report.device_description.empty())
    return fmt::format("{} ({})", report.device_description, report.device);
  return fmt::format("{} instructions, {} thread{}", report.instruction_set, report.threads,
                     report.threads == 1 ? "" : "s");
}

}  // namespace

std::string to_table(const ModelBenchReport& report, TableForm form) {
  std::string text = fmt::format(
      "{}\n{}, {}{}, {} KV cache, {}{}\nweights {} loaded in {:.1f} s ({:.2f} "
      "GB/s), "
      "peak memory {}\n\n",
      tools::describe(report.machine), report.model, report.dtype,
      report.quantization == "none" ? "" : fmt::format(" with {} weights", report.quantization),
      report.kv_cache_dtype, place_of(report),
      report.strategy.empty() ? "" : fmt::format(" for each rank, {}", report.strategy),
      format_bytes(report.weight_bytes), report.load_seconds,
      static_cast<double>(report.weight_bytes) / 1e9 / std::max(report.load_seconds, 1e-9),
      format_bytes(report.peak_memory));
  if (form == TableForm::markdown) std::replace(text.begin(), text.end() - 1, '\n', ' ');
  Table table(
      {"work", "bound by", "tokens/s", "from", "to", "GB", "Gop", "GB/s", "of", "Gop/s", "of", "fraction"},
      2);
  for (const StepResult& r : report.results) {
    const double seconds = static_cast<double>(r.tokens) / r.tokens_per_second.median;
    table.add(
        {work_name(r), r.bound_by_memory ? "memory" : "compute",
         fmt::format("{:.1f}", r.tokens_per_second.median), fmt::format("{:.1f}", r.tokens_per_second.low),
         fmt::format("{:.1f}", r.tokens_per_second.high), fmt::format("{:.2f}", r.floor.bytes / 1e9),
         fmt::format("{:.0f}", r.floor.operations / 1e9),
         fmt::format("{:.1f}", r.floor.bytes / 1e9 / seconds),
         fmt::format("{:.1f}", r.ceilings.read_bandwidth / 1e9),
         fmt::format("{:.0f}", r.floor.operations / 1e9 / seconds),
         std::isfinite(r.ceilings.peak_operations) ? fmt::format("{:.0f}", r.ceilings.peak_operations / 1e9)
                                                   : "",
         percent(r.fraction)});
  }
  return text + table.print(form);
}

std::string to_json(const ModelBenchReport& report) {
  Json results = Json::array();
  for (const StepResult& r : report.results) {
    Json result = {
        {"phase", r.phase},
        {"sequences", r.sequences},
        {"tokens", r.tokens},
        {"tokens_per_second", spread_json(r.tokens_per_second)},
        {"bytes", r.floor.bytes},
        {"operations", r.floor.operations},
        {"read_bandwidth", r.ceilings.read_bandwidth},
        {"peak_operations",
         std::isfinite(r.ceilings.peak_operations) ? Json(r.ceilings.peak_operations) : Json(nullptr)},
        {"bound_by", r.bound_by_memory ? "memory" : "compute"},
        {"fraction_of_ceiling", r.fraction}};
    if (!r.ops.empty()) result["profile"] = profile_json(r);
    results.push_back(std::move(result));
  }
  const Json json = {{"version", report.version},
                     {"model", report.model},
                     {"dtype", report.dtype},
                     {"quantization", report.quantization},
                     {"kv_cache_dtype", report.kv_cache_dtype},
                     {"device", report.device},
                     {"device_description", report.device_description},
                     {"instruction_set", report.instruction_set},
                     {"strategy", report.strategy},
                     {"threads", report.threads},
                     {"machine", tools::machine_json(report.machine)},
                     {"load_seconds", report.load_seconds},
                     {"weight_bytes", report.weight_bytes},
                     {"peak_memory_bytes", report.peak_memory},
                     {"results", std::move(results)}};
  return json.dump();
}

std::string profile_tables(const ModelBenchReport& report, TableForm form) {
  std::string text;
  for (const StepResult& r : report.results) {
    if (r.ops.empty()) continue;
    const double whole = step_seconds(r.ops);
    Table table({"op", "calls", "ms", "share", "GB/s", "Gop/s", "fraction"}, 1);
    double inside = 0;
    for (const OpTotal& op : totals(r.ops)) {
      inside += op.seconds;
      const bool counted = op.work.bytes > 0;
      table.add({op.name, std::to_string(op.calls), fmt::format("{:.3f}", 1e3 * op.seconds),
                 percent(op.seconds / whole),
                 counted ? fmt::format("{:.1f}", op.work.bytes / 1e9 / op.seconds) : "",
                 counted ? fmt::format("{:.0f}", op.work.operations / 1e9 / op.seconds) : "",
                 counted ? percent(floor_seconds(op.work, r.ceilings) / op.seconds) : ""});
    }
    table.add({"between ops", "", fmt::format("{:.3f}", 1e3 * (whole - inside)), percent(1 - inside / whole),
               "", "", ""});
    text += fmt::format("\n{}: {:.2f} ms on the first rank\n{}{}", work_name(r), 1e3 * whole,
                        form == TableForm::markdown ? "\n" : "", table.print(form));
  }
  return text;
}

std::string to_chrome_trace(const ModelBenchReport& report) {
  Json events = Json::array();
  int step = 0;
  for (const StepResult& r : report.results) {
    if (r.ops.empty()) continue;
    ++step;
    events.push_back({{"ph", "M"},
                      {"name", "thread_name"},
                      {"pid", 1},
                      {"tid", step},
                      {"args", {{"name", work_name(r)}}}});
    for (const OpRecord& op : r.ops) {
      const auto since = std::chrono::duration<double, std::micro>(op.begin - r.ops.front().begin).count();
      events.push_back({{"ph", "X"},
                        {"name", op.name},
                        {"pid", 1},
                        {"tid", step},
                        {"ts", since},
                        {"dur", 1e6 * seconds_of(op)},
                        {"args", {{"bytes", op.work.bytes}, {"operations", op.work.operations}}}});
    }
  }
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump();
}

}  // namespace chorale::bench
