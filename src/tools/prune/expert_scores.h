// What calibration measures of the experts of one layer.
#pragma once

#include <cstdint>
#include <vector>

namespace chorale::tools {

// One value for each of the layer's E experts; all empty for a dense layer.
struct ExpertScores {
  std::vector<int64_t> tokens;      // [E] tokens that were routed to the expert
  std::vector<double> gate_weight;  // [E] the sum of their gate weights
  std::vector<double>
      reap;  // [E] their mean of gate weight times the norm of the expert's output; 0 for none
};

}  // namespace chorale::tools
