// Which strategies `chorale compare` runs: the points that people know by name, or texts as --strategy takes
// them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/sharding_plan.h"
#include "parallel/strategy.h"

namespace chorale::tools {

// A strategy to run, or the reason why there is none.
struct NamedStrategy {
  std::string name;  // "simple", "ep", ..., or the text that was given
  std::optional<parallel::Strategy> strategy;
  std::string error;  // when there is no strategy
};

// config:
//   simple  one rank
//   ep      tensor-parallel attention in two data-parallel groups, experts shared by all ranks: tp = ranks /
//   2,
//           dp = 2, ep = ranks; where the model's attention cannot be split that far, the largest tp that
//           works
//   tp      everything split over all ranks
//   both    ep and tp
//   all     simple, ep, tp, and more points between and beyond them, each once
// Throws Error that names --config or --ranks.
std::vector<NamedStrategy> strategies_of_config(std::string_view config, int ranks,
                                                const parallel::ShardedSizes& sizes);

// As --strategy gives it.
NamedStrategy strategy_from_text(std::string_view text);

// The sizes that are not one: "tp=4 dp=2 ep=8"; "1 rank" when all are.
std::string short_text(const parallel::Strategy& strategy);

// The name and the sizes, where they say different things: "ep: tp=4 dp=2 ep=8".
std::string label(const NamedStrategy& strategy);

}  // namespace chorale::tools
