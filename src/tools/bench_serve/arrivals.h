// When the requests of a load arrive.
#pragma once

#include <cstdint>
#include <vector>

namespace chorale::bench_serve {

// Seconds from the start, ascending; the first is 0. The gaps are those of a Poisson process of `rate`
// requests per second, a pure function of the seed; all are 0 for an infinite rate.
std::vector<double> arrival_times(int64_t count, double rate, uint64_t seed);

}  // namespace chorale::bench_serve
