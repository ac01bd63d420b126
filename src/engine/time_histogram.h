// How long things took, counted in buckets. A plain value: stats are copied whole.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace chorale::engine {

struct TimeHistogram {
  // Upper bounds in seconds, inclusive.
  static constexpr std::array<double, 18> kBounds{.0005, .001, .002, .005, .01, .02, .05, .1,  .2,
                                                  .5,    1,    2,    5,    10,  20,  60,  120, 300};

  std::array<uint64_t, kBounds.size() + 1> counts{};  // by bucket; the last one is beyond all bounds
  double sum = 0;

  void observe(double seconds) {
    const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin();
    ++counts[static_cast<size_t>(bucket)];
    sum += seconds;
  }
  uint64_t count() const {
    uint64_t total = 0;
    for (const uint64_t n : counts) total += n;
    return total;
  }
};

}  // namespace chorale::engine
