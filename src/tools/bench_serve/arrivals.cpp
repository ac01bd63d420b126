#include "tools/bench_serve/arrivals.h"

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "tools/bench_serve/random_streams.h"

namespace chorale::bench_serve {

std::vector<double> arrival_times(int64_t count, double rate, uint64_t seed) {
  CHORALE_CHECK(count >= 0 && rate > 0);
  std::vector<double> times(static_cast<size_t>(count));
  if (std::isinf(rate)) return times;
  for (size_t i = 1; i < times.size(); ++i)
    times[i] = times[i - 1] - std::log1p(-random_uniform(seed, kArrivalStream, i)) / rate;
  return times;
}

}  // namespace chorale::bench_serve
