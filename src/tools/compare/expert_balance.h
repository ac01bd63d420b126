// How evenly the ranks of a strategy share the work of the experts.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/parallel_plan.h"

namespace chorale::tools {

// Work of the busiest rank over that of the mean rank; 1 is perfect.
struct Balance {
  double mean = 1;          // over the layers that have experts
  double worst = 1;         // in the layer that has most
  int64_t worst_layer = 0;  // that layer
};

// [layers][world]: how many (token, expert) pairs each rank has multiplied. load_by_rank [world][layers *
// num_experts]: the pairs of the tokens that are at home on each rank. Exact where one replica of an expert
// gets a rank's tokens; where replicas take turns they count as sharing evenly.
std::vector<std::vector<double>> expert_rows(const engine::ParallelPlan& plan,
                                             const std::vector<std::vector<int64_t>>& load_by_rank,
                                             int64_t num_experts);

// Nothing when no layer has any work. Layers without work are left out.
std::optional<Balance> expert_balance(const std::vector<std::vector<double>>& rows);

}  // namespace chorale::tools
