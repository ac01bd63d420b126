#include "tools/distribution.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace chorale::tools {

double percentile(const std::vector<double>& values, double p) {
  CHORALE_CHECK(!values.empty() && p >= 0 && p <= 100);
  const double place = p / 100 * static_cast<double>(values.size() - 1);
  const double below = std::floor(place);
  const auto i = static_cast<size_t>(below);
  if (i + 1 >= values.size()) return values.back();
  return values[i] + (values[i + 1] - values[i]) * (place - below);
}

std::optional<Distribution> summarize(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return Distribution{sum / static_cast<double>(values.size()), percentile(values, 50),
                      percentile(values, 99)};
}

}  // namespace chorale::tools
