#include "tools/compare/report.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/memory_info.h"
#include "tools/compare/prediction_error.h"
#include "tools/machine_json.h"

namespace chorale::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr Column kColumns[] = {
    {"", "strategy"},
    {"", "ranks"},
    {"", "bits"},
    {"TTFT, ms", "median"},
    {"TTFT, ms", "p99"},
    {"ITL, ms", "median"},
    {"ITL, ms", "p99"},
    {"tokens/second", "prompt"},
    {"tokens/second", "output"},
    {"memory of a rank", "weights"},
    {"memory of a rank", "KV cache"},
    {"KB sent per token", "attn"},
    {"KB sent per token", "disp"},
    {"KB sent per token", "comb"},
    {"KB sent per token", "logits"},
    {"expert load", "mean"},
    {"expert load", "worst"},
};

// Three digits that count, as far as they go.
std::string three_digits(double value) {
  if (value == 0) return "0";
  if (value >= 99.95) return fmt::format("{:.0f}", value);
  return value >= 9.995 ? fmt::format("{:.1f}", value) : fmt::format("{:.2f}", value);
}

std::string milliseconds(const std::optional<Distribution>& d, double Distribution::*field) {
  return d ? three_digits((*d).*field * 1e3) : "-";
}

Json to_json(const std::optional<Distribution>& d) {
  if (!d) return nullptr;
  return {{"mean", d->mean}, {"median", d->median}, {"p99", d->p99}};
}

Json traffic_json(const Measurement& m) {
  Json traffic = Json::object();
  for (const comm::Purpose purpose : kShownPurposes) {
    Json by_rank = Json::array();
    for (const auto& rank : m.sent_bytes) by_rank.push_back(rank[static_cast<size_t>(purpose)]);
    traffic[std::string(comm::name_of(purpose))] = {
        {"bytes", m.bytes_for(purpose)},
        {"bytes_per_token", m.bytes_per_token(purpose)},
        {"operations", m.operations[static_cast<size_t>(purpose)]},
        {"bytes_by_rank", std::move(by_rank)}};
  }
  return traffic;
}

Json balance_json(const std::optional<Balance>& balance) {
  if (!balance) return nullptr;
  return {{"mean", balance->mean}, {"worst", balance->worst}, {"worst_layer", balance->worst_layer}};
}

void add_measurement(const Measurement& m, Json& json) {
  json["threads_per_rank"] = m.threads_per_rank;
  json["load_seconds"] = m.load_seconds;
  json["seconds"] = m.seconds;
  json["prompt_tokens"] = m.prompt_tokens;
  json["output_tokens"] = m.output_tokens;
  json["computed_tokens"] = m.computed_tokens;
  json["steps"] = m.steps;
  json["preemptions"] = m.preemptions;
  json["time_to_first_token"] = to_json(m.first_token);
  json["inter_token_latency"] = to_json(m.between);
  json["prompt_tokens_per_second"] = m.prompt_rate;
  json["output_tokens_per_second"] = m.output_rate;
  json["stored_weight_bytes"] = m.stored_weights;
  Json ranks = Json::array();
  for (const RankMemory& rank : m.ranks)
    ranks.push_back({{"weight_bytes", rank.weights}, {"kv_cache_bytes", rank.kv_cache}});
  json["ranks"] = std::move(ranks);
  json["traffic"] = traffic_json(m);
  json["expert_balance"] = balance_json(m.balance);
  if (!m.predicted) return;
  const parallel::Prediction& p = *m.predicted;
  Json parts = Json::object();
  for (size_t part = 0; part < parallel::kNumCostParts; ++part)
    parts[std::string(parallel::name_of(static_cast<parallel::CostPart>(part)))] = p.parts.seconds[part];
  json["predicted"] = {
      {"seconds", p.seconds},
      {"steps", p.steps},
      {"output_tokens_per_second", p.output_rate},
      {"prompt_tokens_per_second", p.prompt_rate},
      {"time_to_first_token", {{"median", p.first_token_median}, {"p99", p.first_token_p99}}},
      {"inter_token_latency", {{"median", p.between_median}, {"p99", p.between_p99}}},
      {"seconds_by_part", std::move(parts)}};
}

Json to_json(const Outcome& outcome) {
  Json json = {
      {"name", outcome.strategy.name}, {"strategy", nullptr}, {"error", nullptr}, {"identical", nullptr}};
  if (const auto& s = outcome.strategy.strategy)
    json["strategy"] = {{"tp_size", s->tp_size},         {"dp_size", s->dp_size},
                        {"ep_size", s->ep_size},         {"moe_tp_size", s->moe_tp_size},
                        {"moe_dp_size", s->moe_dp_size}, {"world", s->world()}};
  if (!outcome.measured) {
    json["error"] = outcome.error;
    return json;
  }
  json["identical"] = !outcome.difference.has_value();
  if (outcome.difference) json["difference"] = *outcome.difference;
  json["is_reference"] = outcome.is_reference;
  add_measurement(*outcome.measured, json);
  return json;
}

// Where the text may be broken: at the last space that leaves a line of `width`, else after `width`.
std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines;
  while (text.size() > width) {
    const size_t space = text.rfind(' ', width);
    const bool at_space = space != std::string_view::npos && space > 0;
    lines.emplace_back(text.substr(0, at_space ? space : width));
    text.remove_prefix(at_space ? space + 1 : width);
  }
  lines.emplace_back(text);
  return lines;
}

// Groups are two spaces apart, the columns of one group one.
std::string gap(size_t c) {
  if (c == 0) return "";
  return !kColumns[c].group.empty() && kColumns[c].group == kColumns[c - 1].group ? " " : "  ";
}

// The label gets what the other columns leave; a longer one has a line of its own.
std::vector<size_t> column_widths(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (size_t c = 0; c < std::size(kColumns); ++c) {
    size_t width = kColumns[c].title.size();
    for (const auto& row : rows) width = std::max(width, row[c].size());
    widths.push_back(width);
  }
  // A group's title must fit over its columns.
  for (size_t c = 0; c < widths.size();) {
    size_t end = c + 1;
    size_t width = widths[c];
    for (; end < widths.size() && kColumns[end].group == kColumns[c].group; ++end) width += 1 + widths[end];
    if (kColumns[c].group.size() > width) widths[c] += kColumns[c].group.size() - width;
    c = end;
  }
  size_t others = 0;
  for (size_t c = 1; c < widths.size(); ++c) others += gap(c).size() + widths[c];
  const size_t left = kTableColumns - std::min(kTableColumns, others);
  widths[0] = std::max(std::min(widths[0], left), kColumns[0].title.size());
  return widths;
}

std::string group_line(const std::vector<size_t>& widths) {
  std::string line;
  for (size_t c = 0; c < widths.size();) {
    size_t end = c + 1;
    size_t width = widths[c];
    line += gap(c);
    for (; end < widths.size() && !kColumns[c].group.empty() && kColumns[end].group == kColumns[c].group;
         ++end)
      width += 1 + widths[end];
    const std::string_view group = kColumns[c].group;
    line += group.empty() ? std::string(width, ' ') : fmt::format("{:^{}}", group, width);
    c = end;
  }
  return line + "\n";
}

template <typename Cell>
std::string cell_line(const std::vector<size_t>& widths, const Cell& cell) {
  std::string line;
  for (size_t c = 0; c < widths.size(); ++c)
    line += gap(c) +
            (c == 0 ? fmt::format("{:<{}}", cell(c), widths[c]) : fmt::format("{:>{}}", cell(c), widths[c]));
  return line + "\n";
}

std::string error_lines(const Outcome& outcome) {
  std::string lines;
  const std::string text = fmt::format("{}  failed: {}", label(outcome.strategy), outcome.error);
  for (const std::string& line : wrap(log::escape(text), kTableColumns - 2))
    lines += (lines.empty() ? "" : "  ") + line + "\n";
  return lines;
}

}  // namespace

const Measurement* CompareReport::reference() const {
  for (const Outcome& outcome : outcomes)
    if (outcome.is_reference) return &*outcome.measured;
  return nullptr;
}

std::string CompareReport::verdict() const {
  const auto count = [&](const auto& what) { return std::count_if(outcomes.begin(), outcomes.end(), what); };
  const auto ran = count([](const Outcome& o) { return o.measured.has_value(); });
  const auto differ = count([](const Outcome& o) { return o.difference.has_value(); });
  const auto failed = std::ssize(outcomes) - ran;
  const std::string others = failed > 0 ? fmt::format(" {} could not run.", failed) : "";
  if (ran == 0) return "No strategy ran.";
  if (differ > 0)
    return fmt::format("{} of {} strategies gave other bits than the first.{}", differ, ran, others);
  const std::string tokens =
      fmt::format("{} tokens with their log probabilities", reference()->output_tokens);
  if (ran == 1) return fmt::format("One strategy ran: {}.{}", tokens, others);
  return fmt::format("All {} strategies that ran gave the same bits: {}.{}", ran, tokens, others);
}

std::span<const Column> table_columns() {
  return kColumns;
}

std::vector<std::string> table_cells(const Outcome& outcome) {
  const Measurement& m = *outcome.measured;
  const RankMemory memory = m.largest_rank();
  std::vector<std::string> cells = {label(outcome.strategy),
                                    fmt::format("{}x{}", m.ranks.size(), m.threads_per_rank),
                                    outcome.is_reference ? "first"
                                    : outcome.difference ? "OTHER"
                                                         : "same",
                                    milliseconds(m.first_token, &Distribution::median),
                                    milliseconds(m.first_token, &Distribution::p99),
                                    milliseconds(m.between, &Distribution::median),
                                    milliseconds(m.between, &Distribution::p99),
                                    fmt::format("{:.0f}", m.prompt_rate),
                                    fmt::format("{:.0f}", m.output_rate),
                                    format_bytes(memory.weights),
                                    format_bytes(memory.kv_cache)};
  for (const comm::Purpose purpose : kShownPurposes)
    cells.push_back(three_digits(m.bytes_per_token(purpose) / 1e3));
  cells.push_back(m.balance ? fmt::format("{:.2f}", m.balance->mean) : "-");
  cells.push_back(m.balance ? fmt::format("{:.2f}", m.balance->worst) : "-");
  return cells;
}

std::vector<std::string> table_notes(const CompareReport& report) {
  std::vector<std::string> notes = {
      "ranks: with the threads of each. bits: whether all tokens and log probabilities are those of the "
      "first strategy.",
      "TTFT: time to first token; all requests arrive at once, so it includes waiting. ITL: inter-token "
      "latency, from a token to the next of its request.",
      "tokens/second: prompt tokens until the last request's first token; output tokens of the whole run.",
      "KB sent per token: by all ranks together, for each token that went through the model.",
      "expert load: of the busiest rank over the mean rank, 1 is perfect; mean of the layers, and the worst "
      "layer."};
  if (const Measurement* reference = report.reference())
    notes.push_back(
        fmt::format("memory of a rank: of the largest one, KV cache as it was set up. The ranks of this "
                    "process share one copy of the weights, {}.",
                    format_bytes(reference->stored_weights)));
  return notes;
}

std::string report_json(const CompareReport& report, int indent) {
  const io::ModelConfig& c = report.config;
  const Measurement* reference = report.reference();
  Json json = {
      {"version", report.version},
      {"date", report.date},
      {"machine", machine_json(report.machine)},
      {"model",
       {{"name", report.model},
        {"architecture", c.architecture},
        {"random_weights", report.is_dummy},
        {"num_hidden_layers", c.num_hidden_layers},
        {"hidden_size", c.hidden_size},
        {"num_attention_heads", c.num_attention_heads},
        {"num_key_value_heads", c.num_key_value_heads},
        {"num_experts", c.num_experts},
        {"num_experts_per_tok", c.num_experts_per_tok}}},
      {"workload", {{"description", report.workload}, {"requests", report.requests}, {"seed", report.seed}}}};
  json["dtype"] = reference != nullptr ? Json(reference->dtype) : Json();
  json["instruction_set"] = reference != nullptr ? Json(reference->instruction_set) : Json();
  json["device"] = reference != nullptr ? Json(reference->device) : Json();
  json["device_name"] = reference != nullptr ? Json(reference->device_description) : Json();
  json["identical"] = any_ran(report.outcomes) && all_identical(report.outcomes);
  json["verdict"] = report.verdict();
  json["strategies"] = Json::array();
  for (const Outcome& outcome : report.outcomes) json["strategies"].push_back(to_json(outcome));
  if (const auto error = prediction_error(report.outcomes))
    json["prediction"] = {{"median_error", error->median},
                          {"worst_error", error->worst},
                          {"kendall_tau", error->kendall_tau},
                          {"first_behind_best", error->first_behind}};
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string report_table(const CompareReport& report) {
  std::vector<std::vector<std::string>> rows;
  for (const Outcome& outcome : report.outcomes)
    if (outcome.measured) rows.push_back(table_cells(outcome));
  const std::vector<size_t> widths = column_widths(rows);

  std::string text = fmt::format("{}: {}\n\n", log::escape(report.model), report.workload);
  if (!rows.empty()) {
    text += group_line(widths);
    text += cell_line(widths, [](size_t c) { return kColumns[c].title; });
  }
  size_t row = 0;
  for (const Outcome& outcome : report.outcomes) {
    if (!outcome.measured) {
      text += error_lines(outcome);
      continue;
    }
    std::vector<std::string>& cells = rows[row];
    if (cells[0].size() > widths[0]) text += std::exchange(cells[0], "") + "\n";
    text += cell_line(widths, [&](size_t c) { return cells[c]; });
    if (outcome.difference) text += "  " + *outcome.difference + "\n";
    ++row;
  }
  text += "\n";
  if (const std::string predicted = prediction_table(report.outcomes); !predicted.empty())
    text += predicted + "\n";
  for (const std::string& note : table_notes(report)) {
    for (const std::string& line : wrap(note, kTableColumns)) text += line + "\n";
  }
  return text + report.verdict() + "\n";
}

}  // namespace chorale::tools
