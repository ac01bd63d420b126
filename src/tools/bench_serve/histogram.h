// How often values fall into which range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace chorale::bench_serve {

// Bin i holds the values from lowest + i * step up to, not including, the next; the last one all above, too.
struct Histogram {
  double lowest = 0;
  double step = 1;
  std::vector<int64_t> counts;
  bool has_tail = false;  // the last bin holds values beyond its upper end
  double start(size_t bin) const { return lowest + static_cast<double>(bin) * step; }
};

// At most `bins` + 2 bins at whole steps, from the smallest value to the 99th percentile; the last one holds
// the rest. values: ascending, not empty, not negative.
Histogram make_histogram(const std::vector<double>& values, int bins);

}  // namespace chorale::bench_serve
