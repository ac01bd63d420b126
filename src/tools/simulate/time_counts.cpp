#include "tools/simulate/time_counts.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace chorale::simulate {
namespace {

constexpr double kNanosecondsPerMillisecond = 1e6;
// Spans below this have buckets of their own; each octave above has half as many.
constexpr uint64_t kPlain = 512;
constexpr int kPlainBits = 9;

size_t bucket_of(uint64_t nanoseconds) {
  if (nanoseconds < kPlain) return nanoseconds;
  const int octave = std::bit_width(nanoseconds) - kPlainBits;  // from 1
  return static_cast<size_t>(octave) * (kPlain / 2) + (nanoseconds >> octave);
}

}  // namespace

void TimeCounts::add(Time span) {
  CHORALE_CHECK(span.count() >= 0, "a span of {} ns", span.count());
  const size_t index = bucket_of(static_cast<uint64_t>(span.count()));
  if (index >= buckets_.size()) buckets_.resize(index + 1);
  const auto value = static_cast<double>(span.count());
  ++buckets_[index].count;
  buckets_[index].sum += value;
  if (count_++ == 0) first_ = span.count();
  const auto difference = static_cast<double>(span.count() - first_);
  sum_ += difference;
  squares_ += difference * difference;
  max_ = std::max(max_, static_cast<int64_t>(span.count()));
}

double TimeCounts::value_at(int64_t rank) const {
  if (rank == count_ - 1) return static_cast<double>(max_);
  int64_t before = 0;
  for (const Bucket& bucket : buckets_) {
    before += bucket.count;
    if (rank < before) return bucket.sum / static_cast<double>(bucket.count);
  }
  return static_cast<double>(max_);
}

double TimeCounts::percentile(double p) const {
  const double rank = p / 100 * static_cast<double>(count_ - 1);
  const auto lower = static_cast<int64_t>(rank);
  const double below = value_at(lower);
  const double part = rank - static_cast<double>(lower);
  return part > 0 ? below + part * (value_at(lower + 1) - below) : below;
}

std::optional<bench_serve::Statistics> TimeCounts::statistics() const {
  if (count_ == 0) return std::nullopt;
  const auto count = static_cast<double>(count_);
  const double difference = sum_ / count;
  bench_serve::Statistics s;
  s.mean = static_cast<double>(first_) + difference;
  s.standard_deviation = std::sqrt(std::max(squares_ / count - difference * difference, 0.0));
  s.median = percentile(50);
  s.p90 = percentile(90);
  s.p95 = percentile(95);
  s.p99 = percentile(99);
  s.max = static_cast<double>(max_);
  for (double* value : {&s.mean, &s.standard_deviation, &s.median, &s.p90, &s.p95, &s.p99, &s.max})
    *value /= kNanosecondsPerMillisecond;
  return s;
}

}  // namespace chorale::simulate
