#include "tools/prune/prune_report.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "tools/machine_json.h"
#include "tools/report/charts.h"
#include "tools/report/page.h"

namespace chorale::tools {
namespace {

using Json = nlohmann::ordered_json;
using Kind = PruneMethod::Kind;

constexpr std::string_view kColumns[] = {"variant", "experts", "width",        "nats per token",
                                         "lost",    "work",    "weights (MB)", "seconds"};

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t colon = text.find(':'); colon != std::string_view::npos; colon = text.find(':')) {
    parts.push_back(text.substr(0, colon));
    text.remove_prefix(colon + 1);
  }
  parts.push_back(text);
  return parts;
}

int64_t parse_count(std::string_view text, std::string_view variant) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw_error("--variants {}: expected a whole number, found \"{}\"", log::escape(variant),
                log::escape(text));
  }
  return value;
}

double lost(const PruneResult& result) {
  return *result.nll_after - *result.nll_before;
}

// Neurons of experts that a token passes, over those of the original.
double work_of(const PruneResult& result, const io::ModelConfig& config) {
  const int64_t top_k = std::min(config.num_experts_per_tok, result.num_experts);
  return static_cast<double>(top_k * result.width) /
         static_cast<double>(config.num_experts_per_tok * config.moe_intermediate_size);
}

std::vector<std::string> cells_of(const PruneReport::Row& row, const io::ModelConfig& config) {
  const PruneResult& r = row.result;
  return {name_of(row.variant, config),
          fmt::format("{}", r.num_experts),
          fmt::format("{}", r.width),
          fmt::format("{:.5f}", *r.nll_after),
          fmt::format("{:.5f}", lost(r)),
          fmt::format("{:.2f}", work_of(r, config)),
          fmt::format("{:.1f}", static_cast<double>(r.weight_bytes) / 1e6),
          fmt::format("{:.0f}", row.seconds)};
}

std::vector<std::string> notes_of(const PruneReport& report) {
  std::vector<std::string> notes;
  if (!report.rows.empty()) {
    notes.push_back(
        fmt::format("nats per token: negative log-likelihood of {}; the original has {:.5f}. "
                    "lost: what a token has more than with the original.",
                    report.held_out, *report.rows.front().result.nll_before));
  }
  notes.emplace_back("work: neurons of experts that a token passes, 1 for the original.");
  notes.emplace_back(
      "seconds: of the pruning and its scoring; later variants use the scores of earlier ones.");
  return notes;
}

}  // namespace

PruneVariant parse_variant(std::string_view text) {
  const std::vector<std::string_view> parts = split(text);
  PruneVariant variant;
  const std::string_view method = parts[0];
  if (method != "list") variant.method = parse_prune_method(method);
  const bool merges = merges_experts(variant.method);
  const size_t least = merges ? 1 : 2;
  const size_t most = variant.method.kind == Kind::fit ? 3 : least;
  if (method == "list" || parts.size() < least || parts.size() > most) {
    throw_error("--variants: expected METHOD:N, average, fit, fit:WIDTH or fit:WIDTH:STEPS, found \"{}\"",
                log::escape(text));
  }
  if (!merges) {
    variant.num_experts = parse_count(parts[1], text);
    return variant;
  }
  if (parts.size() > 1) variant.expert_width = parse_count(parts[1], text);
  if (parts.size() > 2) variant.fit_steps = parse_count(parts[2], text);
  return variant;
}

std::string name_of(const PruneVariant& variant, const io::ModelConfig& config) {
  const std::string_view method = name_of(variant.method.kind);
  if (variant.method.kind == Kind::fit) {
    const int64_t width = variant.expert_width > 0 ? variant.expert_width : config.moe_intermediate_size;
    return fmt::format("{}:{}:{}", method, width, variant.fit_steps);
  }
  return variant.num_experts ? fmt::format("{}:{}", method, *variant.num_experts) : std::string(method);
}

std::vector<PruneVariant> default_variants(const io::ModelConfig& config) {
  std::vector<PruneVariant> variants;
  std::vector<int64_t> counts = {config.num_experts * 3 / 4, config.num_experts / 2, 1};
  std::erase_if(counts, [](int64_t n) { return n < 1; });
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  for (const Kind kind : {Kind::frequency, Kind::reap}) {
    for (const int64_t n : counts) {
      PruneVariant variant;
      variant.method.kind = kind;
      variant.num_experts = n;
      variants.push_back(variant);
    }
  }
  PruneVariant merged;
  merged.method.kind = Kind::average;
  variants.push_back(merged);
  merged.method.kind = Kind::fit;
  variants.push_back(merged);
  if (config.num_experts_per_tok > 1) {
    merged.expert_width = config.num_experts_per_tok * config.moe_intermediate_size;
    variants.push_back(merged);
  }
  return variants;
}

std::string PruneReport::verdict() const {
  if (rows.empty()) return fmt::format("None of {} variants is done.", num_variants);
  const auto best = std::min_element(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return *a.result.nll_after < *b.result.nll_after;
  });
  const std::string unfinished = rows.size() < num_variants
                                     ? fmt::format(" {} of {} variants are done.", rows.size(), num_variants)
                                     : "";
  return fmt::format("Least is lost with {}: {:.5f} nats per token of {:.5f}.{}",
                     name_of(best->variant, config), lost(best->result), *best->result.nll_before,
                     unfinished);
}

std::string prune_report_json(const PruneReport& report, int indent) {
  Json json = {{"version", report.version},
               {"date", report.date},
               {"machine", machine_json(report.machine)},
               {"model", report.model},
               {"num_experts", report.config.num_experts},
               {"num_experts_per_tok", report.config.num_experts_per_tok},
               {"moe_intermediate_size", report.config.moe_intermediate_size},
               {"calibration", report.calibration},
               {"held_out", report.held_out},
               {"window", report.window},
               {"verdict", report.verdict()}};
  json["variants"] = Json::array();
  for (const PruneReport::Row& row : report.rows) {
    json["variants"].push_back({{"name", name_of(row.variant, report.config)},
                                {"num_experts", row.result.num_experts},
                                {"moe_intermediate_size", row.result.width},
                                {"weight_bytes", row.result.weight_bytes},
                                {"calibration_tokens", row.result.calibration_tokens},
                                {"nll_before", *row.result.nll_before},
                                {"nll_after", *row.result.nll_after},
                                {"work", work_of(row.result, report.config)},
                                {"seconds", row.seconds}});
  }
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string prune_report_table(const PruneReport& report) {
  std::vector<std::vector<std::string>> lines = {{std::begin(kColumns), std::end(kColumns)}};
  for (const PruneReport::Row& row : report.rows) lines.push_back(cells_of(row, report.config));
  std::string text;
  for (const auto& line : lines) {
    for (size_t c = 0; c < line.size(); ++c) {
      size_t width = 0;
      for (const auto& other : lines) width = std::max(width, other[c].size());
      text += c == 0 ? fmt::format("{:<{}}", line[c], width) : fmt::format("  {:>{}}", line[c], width);
    }
    text += "\n";
  }
  text += "\n";
  for (const std::string& note : notes_of(report)) text += log::escape(note) + "\n";
  return text + report.verdict() + "\n";
}

std::string prune_report_html(const PruneReport& report) {
  const io::ModelConfig& c = report.config;
  std::string table = "<thead><tr>";
  for (const std::string_view title : kColumns) table += fmt::format("<th>{}</th>", html_escape(title));
  table += "</tr></thead>\n<tbody>\n";
  BarChart chart{.title = "Likelihood lost",
                 .subtitle = "Nats per token of the held-out text, above the original; less is better",
                 .series = {"lost"},
                 .format = [](double value) { return fmt::format("{:.3g}", value); }};
  for (const PruneReport::Row& row : report.rows) {
    table += "<tr>";
    for (const std::string& cell : cells_of(row, c)) table += fmt::format("<td>{}</td>", html_escape(cell));
    table += "</tr>\n";
    chart.labels.push_back(name_of(row.variant, c));
    chart.values.push_back({std::max(0.0, lost(row.result))});
  }
  ReportFacts facts = {
      {"Model", fmt::format("{}: {} layers, hidden size {}, {} experts of width {}, {} per token",
                            report.model, c.num_hidden_layers, c.hidden_size, c.num_experts,
                            c.moe_intermediate_size, c.num_experts_per_tok)}};
  if (!report.calibration.empty()) facts.emplace_back("Calibration", report.calibration);
  facts.emplace_back("Judged on", fmt::format("{}, windows of {} tokens", report.held_out, report.window));
  facts.emplace_back("Machine", describe(report.machine));
  facts.emplace_back("Program",
                     fmt::format("Chorale {}, built by {}", report.version, report.machine.compiler));
  facts.emplace_back("Date", report.date);
  return report_page({.title = "Ways of pruning compared: " + report.model,
                      .heading = "Ways of pruning " + report.model,
                      .verdict = report.verdict(),
                      .is_bad = report.rows.size() < report.num_variants,
                      .facts = facts,
                      .table = table + "</tbody>\n",
                      .notes = notes_of(report),
                      .charts = draw(chart)});
}

}  // namespace chorale::tools
