#include "apps/placement_report.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/file_access.h"
#include "parallel/expert_load.h"
#include "parallel/expert_placement.h"

namespace chorale::apps {
namespace {

constexpr uint64_t kMaxLoadBytes = uint64_t{256} << 20;

parallel::LoadRows read_load(const PlacementFlags& flags, const parallel::ExpertPlacement& placement) {
  const auto layers = static_cast<size_t>(placement.num_layers());
  const auto experts = static_cast<size_t>(placement.num_experts());
  if (flags.load.empty()) return parallel::LoadRows(layers, std::vector<double>(experts, 1.0));
  std::string text;
  try {
    text = io::read_text_file(flags.load, kMaxLoadBytes);
  } catch (const Error& error) {
    throw_error("--expert-load: {}", error.what());
  }
  return parallel::read_expert_load(text, "--expert-load " + flags.load.string(), placement.num_layers(),
                                    placement.num_experts());
}

std::vector<double> balance_of(const parallel::ExpertPlacement& placement, const parallel::LoadRows& load) {
  std::vector<double> balance;
  for (int layer = 0; layer < placement.num_layers(); ++layer)
    balance.push_back(placement.imbalance(layer, load[static_cast<size_t>(layer)]));
  return balance;
}

struct RankWork {
  std::vector<int32_t> experts;
  double share = 0;
};

// Replicas of an expert share its work equally.
std::vector<RankWork> work_of(const parallel::ExpertPlacement& placement, int layer,
                              const std::vector<double>& load) {
  const double sum = std::accumulate(load.begin(), load.end(), 0.0);
  std::vector<RankWork> ranks(static_cast<size_t>(placement.ep_size()));
  const auto experts = placement.physical_to_logical(layer);
  for (size_t slot = 0; slot < experts.size(); ++slot) {
    RankWork& rank = ranks[static_cast<size_t>(placement.rank_of(static_cast<int>(slot)))];
    const auto replicas = static_cast<double>(placement.replicas(layer, experts[slot]).size());
    rank.experts.push_back(experts[slot]);
    if (sum > 0) rank.share += load[static_cast<size_t>(experts[slot])] / replicas / sum;
  }
  for (RankWork& rank : ranks) {
    std::sort(rank.experts.begin(), rank.experts.end());
    rank.experts.erase(std::unique(rank.experts.begin(), rank.experts.end()), rank.experts.end());
  }
  return ranks;
}

}  // namespace

void add_placement_flags(CLI::App& app, PlacementFlags& flags) {
  constexpr const char* kGroup = "Placement of experts";
  auto* load =
      app.add_option("--expert-load", flags.load,
                     "Tokens by expert, as /dump_expert_distribution_record tells them: what the placement "
                     "makes of them, and what one made for them would")
          ->option_text("FILE")
          ->group(kGroup);
  app.add_option("--layer", flags.layer, "The layer that is shown; default: the least even one")
      ->option_text("N")
      ->check(CLI::Range(0, 1 << 20))
      ->needs(load)
      ->group(kGroup);
}

std::optional<PlacementReport> report_placement(const PlacementFlags& flags, const io::ModelConfig& config,
                                                const engine::ParallelPlan& plan) {
  if (config.num_experts == 0) {
    if (!flags.load.empty()) throw_error("--expert-load: the model has no experts");
    return std::nullopt;
  }
  const parallel::ExpertPlacement& placement = plan.placement;
  if (flags.layer >= placement.num_layers())
    throw_error("--layer: expected a layer from 0 to {}, found {}", placement.num_layers() - 1, flags.layer);
  const parallel::LoadRows load = read_load(flags, placement);
  const auto balanced = parallel::ExpertPlacement::balanced(placement.shape(), load);
  PlacementReport report;
  report.as_placed = balance_of(placement, load);
  report.balanced = balance_of(balanced, load);
  const auto worst = std::max_element(report.as_placed.begin(), report.as_placed.end());
  report.layer = flags.layer >= 0 ? flags.layer : static_cast<int>(worst - report.as_placed.begin());
  const std::vector<double>& row = load[static_cast<size_t>(report.layer)];
  const std::vector<RankWork> now = work_of(placement, report.layer, row);
  const std::vector<RankWork> then = work_of(balanced, report.layer, row);
  for (size_t rank = 0; rank < now.size(); ++rank) {
    report.ranks.push_back({now[rank].experts, then[rank].experts, now[rank].share, then[rank].share});
  }
  return report;
}

nlohmann::ordered_json to_json(const PlacementReport& report) {
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  for (const PlacementReport::Rank& rank : report.ranks) {
    ranks.push_back({{"experts", rank.experts},
                     {"share", rank.share},
                     {"balanced_experts", rank.balanced_experts},
                     {"balanced_share", rank.balanced_share}});
  }
  return {{"max_over_mean", report.as_placed},
          {"balanced_max_over_mean", report.balanced},
          {"layer", report.layer},
          {"ranks", std::move(ranks)}};
}

std::vector<std::string> to_lines(const PlacementReport& report) {
  std::vector<std::string> lines = {
      "experts by their load: work of the busiest rank over that of the mean one, 1 is even",
      fmt::format("  {:>5}  {:>9}  {:>8}", "layer", "as placed", "balanced")};
  for (size_t layer = 0; layer < report.as_placed.size(); ++layer)
    lines.push_back(
        fmt::format("  {:>5}  {:>9.2f}  {:>8.2f}", layer, report.as_placed[layer], report.balanced[layer]));
  lines.push_back(fmt::format("experts of layer {}, and their share of its work", report.layer));
  size_t width = std::string_view("as placed").size();
  for (const PlacementReport::Rank& rank : report.ranks) width = std::max(width, ranges(rank.experts).size());
  lines.push_back(fmt::format("  {:>7}  {:<{}}  {:>6}  balanced", "EP rank", "as placed", width, ""));
  for (size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const PlacementReport::Rank& r = report.ranks[rank];
    lines.push_back(fmt::format("  {:>7}  {:<{}}  {:>5.1f}%  {}  {:.1f}%", rank, ranges(r.experts), width,
                                100 * r.share, ranges(r.balanced_experts), 100 * r.balanced_share));
  }
  return lines;
}

std::string ranges(const std::vector<int32_t>& ascending) {
  std::string text;
  for (size_t i = 0; i < ascending.size();) {
    size_t end = i + 1;
    while (end < ascending.size() && ascending[end] == ascending[end - 1] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ",", ascending[i]);
    if (end - i > 1) text += fmt::format("-{}", ascending[end - 1]);
    i = end;
  }
  return text.empty() ? "none" : text;
}

}  // namespace chorale::apps
