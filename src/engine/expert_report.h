// What is known of experts that move: settings, counts, and what came of it. Plain values.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/expert_placement.h"

namespace chorale::engine {

struct EplbSettings {
  bool enabled = false;           // experts move by themselves; else when they are asked to
  int64_t interval = 1000;        // steps from one look at the load to the next; at least 1
  double min_balancedness = 0.8;  // work of the mean rank over that of the busiest, below which a layer's
                                  // experts move; 0 to 1
};

// Since the start.
struct ExpertMoves {
  uint64_t rebalances = 0;  // placements that were put in force
  uint64_t layers = 0;
  uint64_t slots = 0;  // physical experts that became copies of another expert
  uint64_t bytes = 0;  // of weights that were moved for it; none where ranks share them
  double seconds = 0;  // that steps waited for it
};

// Of one rebalancing. Balance is the work of the busiest rank over that of the mean one, by layer, of the
// load that it was computed from.
struct RebalanceResult {
  std::vector<double> before;
  std::vector<double> after;
  ExpertMoves moves;  // of this one alone
};
// Null: experts cannot move here. On the engine's thread.
using RebalanceCallback = std::function<void(const RebalanceResult* result)>;

struct ExpertReport {
  parallel::ExpertPlacement placement;  // in force
  parallel::LoadRows load;              // the decaying window, [layers][experts]: tokens
  RebalanceResult last;                 // empty before the first
  ExpertMoves moves;
};

}  // namespace chorale::engine
