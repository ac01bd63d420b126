#include "tools/compare/report_html.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/memory_info.h"
#include "tools/report/charts.h"
#include "tools/report/page.h"

namespace chorale::tools {
namespace {

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

ReportFacts facts(const CompareReport& report) {
  const io::ModelConfig& c = report.config;
  const Machine& m = report.machine;
  ReportFacts facts = {
      {"Model",
       fmt::format("{}{}: {}, {} layers, hidden size {}, {} experts, {} per token, {} attention heads, {} KV "
                   "heads",
                   report.model, report.is_dummy ? " (random weights)" : "", c.architecture,
                   c.num_hidden_layers, c.hidden_size, c.num_experts, c.num_experts_per_tok,
                   c.num_attention_heads, c.num_key_value_heads)},
      {"Workload",
       fmt::format("{}, all at once, sampled at temperature 1, seed {}", report.workload, report.seed)}};
  if (const Measurement* reference = report.reference()) {
    facts.emplace_back("Computation",
                       reference->device_description.empty()
                           ? fmt::format("{} with {} instructions, ranks are threads of one process",
                                         reference->dtype, reference->instruction_set)
                           : fmt::format("{} on {}, {}", reference->dtype, reference->device,
                                         reference->device_description));
  }
  facts.emplace_back("Machine", describe(m));
  facts.emplace_back("Program", fmt::format("Chorale {}, built by {}", report.version, m.compiler));
  facts.emplace_back("Date", report.date);
  return facts;
}

}  // namespace

std::string report_html(const CompareReport& report) {
  std::string rows;
  for (const Outcome& outcome : report.outcomes) rows += table_row(outcome);
  const bool good = any_ran(report.outcomes) && all_identical(report.outcomes);
  return report_page({.title = "Strategies compared: " + report.model,
                      .heading = "Parallel strategies on " + report.model,
                      .verdict = report.verdict(),
                      .is_bad = !good,
                      .facts = facts(report),
                      .table = table_head() + "<tbody>\n" + rows + "</tbody>\n",
                      .notes = table_notes(report),
                      .charts = charts(report)});
}

}  // namespace chorale::tools
