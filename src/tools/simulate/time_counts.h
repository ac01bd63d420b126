// How often spans of time occurred, in constant memory: a simulation has more of them than can be kept.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "tools/bench_serve/metrics.h"

namespace chorale::simulate {

using Time = std::chrono::nanoseconds;  // since the simulation's start, or a span

// Count, mean, deviation and maximum are exact; percentiles are those of buckets that are at most 0.4% wide,
// each represented by the mean of its values, and so exact where all values of a bucket are the same. A
// value; not thread-safe.
class TimeCounts {
 public:
  void add(Time span);  // not negative
  int64_t count() const { return count_; }
  // In milliseconds; percentiles are interpolated as those of bench serve. Nothing for no values.
  std::optional<bench_serve::Statistics> statistics() const;

 private:
  struct Bucket {
    int64_t count = 0;
    double sum = 0;  // nanoseconds
  };

  double value_at(int64_t rank) const;
  double percentile(double p) const;

  std::vector<Bucket> buckets_;
  int64_t count_ = 0;
  // Of the differences from the first span, so that equal spans deviate by nothing: nanoseconds, squared
  // ones.
  int64_t first_ = 0;
  double sum_ = 0;
  double squares_ = 0;
  int64_t max_ = 0;
};

}  // namespace chorale::simulate
