#include "tools/bench_serve/histogram.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tools/distribution.h"
#include "tools/report/charts.h"

namespace chorale::bench_serve {

Histogram make_histogram(const std::vector<double>& values, int bins) {
  CHORALE_CHECK(!values.empty() && values.front() >= 0 && bins > 0);
  const double highest = tools::percentile(values, 99);
  Histogram histogram;
  histogram.step = tools::nice_step(highest - values.front(), bins);
  histogram.lowest = std::floor(values.front() / histogram.step) * histogram.step;
  const double last = std::floor((highest - histogram.lowest) / histogram.step);
  histogram.counts.resize(static_cast<size_t>(last) + 1);
  for (const double value : values) {
    const auto bin = static_cast<size_t>((value - histogram.lowest) / histogram.step);
    histogram.has_tail |= bin >= histogram.counts.size();
    ++histogram.counts[std::min(bin, histogram.counts.size() - 1)];
  }
  return histogram;
}

}  // namespace chorale::bench_serve
