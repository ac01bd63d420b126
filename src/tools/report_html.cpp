#include "tools/report_html.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/memory_info.h"
#include "tools/report_charts.h"

namespace chorale::tools {
namespace {

// Series keep their colour on a light and on a dark page.
constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --page: #fbfbf9; --card: #ffffff; --ink: #1c1d20; --soft: #5d6068;
  --line: #e3e3de; --s0: #2f6fb5; --s1: #e07b39; --s2: #2a9d7f; --s3: #9b6bc4;
  --good: #1f7a4d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #16171a; --card: #1e2024; --ink: #e8e8e4; --soft: #a3a6ad;
  --line: #34373d; --s0: #6ea8e6; --s1: #f0a066; --s2: #5fc9ab; --s3: #bf9be3;
  --good: #63c794; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 10px; }
.verdict { font-size: 17px; font-weight: 600; margin: 0 0 20px; color: var(--good); }
.verdict.bad, td.bad, .difference { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 9px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; }
thead tr:first-child th { padding-bottom: 0; text-align: center; }
th:first-child, td:first-child { text-align: left; }
td.error { text-align: left; white-space: normal; color: var(--bad); }
.notes { color: var(--soft); font-size: 13px; margin: 8px 0 0; padding-left: 18px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 16px;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { color: var(--soft); font-size: 13px; }
figcaption b { color: var(--ink); font-size: 15px; display: block; }
.legend { font-size: 12.5px; color: var(--soft); margin: 6px 0 8px; min-height: 1.5em; }
.legend span { margin-right: 14px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--ink); } svg .label { text-anchor: end; }
svg .value { font-size: 11px; fill: var(--soft); }
svg .tick { font-size: 11px; fill: var(--soft); text-anchor: middle; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .s0 { fill: var(--s0); } svg .s1 { fill: var(--s1); }
svg .s2 { fill: var(--s2); } svg .s3 { fill: var(--s3); }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); }
i.s2 { background: var(--s2); } i.s3 { background: var(--s3); }
)";

// Three digits that count, or all digits of a whole number.
std::string plain_number(double value) {
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

std::string milliseconds(double seconds) {
  return plain_number(seconds * 1e3);
}

std::string kilobytes(double bytes) {
  return plain_number(bytes / 1e3);
}

std::string bytes_text(double bytes) {
  return format_bytes(static_cast<uint64_t>(bytes));
}

// A chart over the strategies that ran; `values` gives a measurement's bars.
template <typename Values>
std::string chart_of(const CompareReport& report, BarChart chart, const Values& values) {
  for (const Outcome& outcome : report.outcomes) {
    if (!outcome.measured) continue;
    chart.labels.push_back(label(outcome.strategy));
    chart.values.push_back(values(*outcome.measured));
  }
  return draw(chart);
}

std::vector<double> median_and_p99(const std::optional<Distribution>& times) {
  return times ? std::vector{times->median, times->p99} : std::vector{0.0, 0.0};
}

std::string charts(const CompareReport& report) {
  std::string all = chart_of(report,
                             {.title = "Throughput",
                              .subtitle = "Tokens per second; more is better",
                              .series = {"prompt", "output"},
                              .format = plain_number},
                             [](const Measurement& m) {
                               return std::vector{m.prompt_rate, m.output_rate};
                             });
  all += chart_of(report,
                  {.title = "Time to first token",
                   .subtitle = "Milliseconds from arrival, waiting included; less is better",
                   .series = {"median", "99th percentile"},
                   .format = milliseconds},
                  [](const Measurement& m) { return median_and_p99(m.first_token); });
  all += chart_of(report,
                  {.title = "Inter-token latency",
                   .subtitle = "Milliseconds from a token to the next of its request; less is better",
                   .series = {"median", "99th percentile"},
                   .format = milliseconds},
                  [](const Measurement& m) { return median_and_p99(m.between); });
  all += chart_of(report,
                  {.title = "Data sent per token",
                   .subtitle = "Kilobytes by all ranks together, for each token that went through the model",
                   .series = {"attention", "dispatch", "combine", "logits"},
                   .stacked = true,
                   .format = kilobytes},
                  [](const Measurement& m) {
                    std::vector<double> bytes;
                    for (const comm::Purpose purpose : kShownPurposes)
                      bytes.push_back(m.bytes_per_token(purpose));
                    return bytes;
                  });
  all += chart_of(
      report,
      {.title = "Memory of a rank",
       .subtitle = "Of the largest rank; ranks of one process share one copy of the weights",
       .series = {"weights", "KV cache"},
       .stacked = true,
       .format = bytes_text},
      [](const Measurement& m) {
        const RankMemory memory = m.largest_rank();
        return std::vector{static_cast<double>(memory.weights), static_cast<double>(memory.kv_cache)};
      });
  return all;
}

std::string table_head() {
  std::string groups;
  std::string titles;
  const auto columns = table_columns();
  for (size_t c = 0; c < columns.size();) {
    size_t end = c + 1;
    while (end < columns.size() && !columns[c].group.empty() && columns[end].group == columns[c].group) ++end;
    groups += fmt::format("<th colspan=\"{}\">{}</th>", end - c, html_escape(columns[c].group));
    c = end;
  }
  for (const Column& column : columns) titles += fmt::format("<th>{}</th>", html_escape(column.title));
  return fmt::format("<thead><tr>{}</tr>\n<tr>{}</tr></thead>\n", groups, titles);
}

std::string table_row(const Outcome& outcome) {
  const size_t columns = table_columns().size();
  if (!outcome.measured)
    return fmt::format("<tr><td>{}</td><td class=\"error\" colspan=\"{}\">failed: {}</td></tr>\n",
                       html_escape(label(outcome.strategy)), columns - 1, html_escape(outcome.error));
  std::string row = "<tr>";
  for (const std::string& cell : table_cells(outcome))
    row += fmt::format("<td{}>{}</td>", cell == "OTHER" ? " class=\"bad\"" : "", html_escape(cell));
  row += "</tr>\n";
  if (outcome.difference)
    row += fmt::format("<tr><td class=\"error\" colspan=\"{}\">{}</td></tr>\n", columns,
                       html_escape(*outcome.difference));
  return row;
}

std::string facts(const CompareReport& report) {
  std::string list;
  const auto add = [&](std::string_view name, const std::string& value) {
    list += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, html_escape(value));
  };
  const io::ModelConfig& c = report.config;
  const Machine& m = report.machine;
  add("Model",
      fmt::format("{}{}: {}, {} layers, hidden size {}, {} experts, {} per token, {} attention heads, {} KV "
                  "heads",
                  report.model, report.is_dummy ? " (random weights)" : "", c.architecture,
                  c.num_hidden_layers, c.hidden_size, c.num_experts, c.num_experts_per_tok,
                  c.num_attention_heads, c.num_key_value_heads));
  add("Workload",
      fmt::format("{}, all at once, sampled at temperature 1, seed {}", report.workload, report.seed));
  if (const Measurement* reference = report.reference())
    add("Computation", fmt::format("{} with {} instructions, ranks are threads of one process",
                                   reference->dtype, reference->instruction_set));
  add("Machine",
      fmt::format("{}, {} cores, {} of memory, {}", m.processor, m.cores, format_bytes(m.memory), m.system));
  add("Program", fmt::format("Chorale {}, built by {}", report.version, m.compiler));
  add("Date", report.date);
  return "<dl>\n" + list + "</dl>\n";
}

}  // namespace

std::string report_html(const CompareReport& report) {
  std::string rows;
  for (const Outcome& outcome : report.outcomes) rows += table_row(outcome);
  std::string notes;
  for (const std::string& note : table_notes(report))
    notes += fmt::format("<li>{}</li>\n", html_escape(note));
  const bool good = any_ran(report.outcomes) && all_identical(report.outcomes);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Strategies compared: {0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n"
      "<h1>Parallel strategies on {0}</h1>\n<p class=\"verdict{2}\">{3}</p>\n{4}"
      "<h2>Results</h2>\n<div class=\"wide\"><table>\n{5}<tbody>\n{6}</tbody>\n</table></div>\n"
      "<ul class=\"notes\">\n{7}</ul>\n<h2>Charts</h2>\n"
      "<div class=\"charts\">\n{8}</div>\n</main>\n</body>\n</html>\n",
      html_escape(report.model), kStyle, good ? "" : " bad", html_escape(report.verdict()), facts(report),
      table_head(), rows, notes, charts(report));
}

}  // namespace chorale::tools
