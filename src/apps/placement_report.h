// What a placement of experts makes of a load: which rank has which experts of a layer, and how even that is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/parallel_plan.h"
#include "io/model_config.h"

namespace CLI {
class App;
}

namespace chorale::apps {

struct PlacementFlags {
  std::filesystem::path load;  // of experts, as /dump_expert_distribution_record tells it; empty: even
  int layer = -1;              // that is shown; -1: the least even one
};
void add_placement_flags(CLI::App& app, PlacementFlags& flags);

struct PlacementReport {
  // Work of the busiest rank over that of the mean one, by layer; 1 is even.
  std::vector<double> as_placed;
  std::vector<double> balanced;  // with the experts placed by this load
  int layer = 0;
  // Of that layer, by expert-parallel rank.
  struct Rank {
    std::vector<int32_t> experts;           // ascending, each once
    std::vector<int32_t> balanced_experts;  // with the experts placed by this load
    double share = 0;                       // of the work of the layer
    double balanced_share = 0;
  };
  std::vector<Rank> ranks;
};

// Nothing for a model without experts. Throws Error that names the flag or the file.
std::optional<PlacementReport> report_placement(const PlacementFlags& flags, const io::ModelConfig& config,
                                                const engine::ParallelPlan& plan);

nlohmann::ordered_json to_json(const PlacementReport& report);
// A line per element.
std::vector<std::string> to_lines(const PlacementReport& report);

// "0-3,7"; "none".
std::string ranges(const std::vector<int32_t>& ascending);

}  // namespace chorale::apps
