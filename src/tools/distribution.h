// What many measured values come to: their mean and percentiles.
#pragma once

#include <optional>
#include <vector>

namespace chorale::tools {

struct Distribution {
  double mean = 0;
  double median = 0;
  double p99 = 0;
};

// Interpolated between the two nearest values, as numpy does. values: ascending, not empty; p: 0 to 100.
double percentile(const std::vector<double>& values, double p);

// Nothing for no values.
std::optional<Distribution> summarize(std::vector<double> values);

}  // namespace chorale::tools
