#include "tools/simulate/time_counts.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"

namespace chorale::simulate {
namespace {

using std::chrono::milliseconds;

TEST(TimeCounts, HaveNoStatisticsOfNothing) {
  EXPECT_FALSE(TimeCounts().statistics().has_value());
}

TEST(TimeCounts, AreExactForValuesThatAreFarApart) {
  TimeCounts counts;
  for (const int value : {1, 2, 4, 8, 16}) counts.add(milliseconds(value));
  const auto s = counts.statistics().value();
  EXPECT_EQ(counts.count(), 5);
  EXPECT_DOUBLE_EQ(s.mean, 6.2);
  EXPECT_EQ(s.median, 4);
  EXPECT_DOUBLE_EQ(s.p90, 8 + 0.6 * 8);  // between the fourth and the fifth
  EXPECT_EQ(s.max, 16);
}

TEST(TimeCounts, AreExactForOneValueThatComesOften) {
  TimeCounts counts;
  for (int i = 0; i < 100'000; ++i) counts.add(Time(1'155'843'808));
  const auto s = counts.statistics().value();
  for (const double value : {s.mean, s.median, s.p90, s.p95, s.p99, s.max}) EXPECT_EQ(value, 1155.843808);
  EXPECT_EQ(s.standard_deviation, 0);
}

// Against all values, sorted, at every octave from nanoseconds to hours.
TEST(TimeCounts, PercentilesAreWithinABucket) {
  for (int octave = 2; octave < 44; octave += 3) {
    TimeCounts counts;
    std::vector<double> values;
    for (uint64_t i = 0; i < 2000; ++i) {
      const double value = (1 + random_uniform(5, static_cast<uint32_t>(octave), i)) * std::exp2(octave);
      counts.add(Time(static_cast<int64_t>(value)));
      values.push_back(std::floor(value) / 1e6);
    }
    const auto exact = bench_serve::statistics(values).value();
    const auto found = counts.statistics().value();
    EXPECT_NEAR(found.median, exact.median, exact.median / 200) << octave;
    EXPECT_NEAR(found.p99, exact.p99, exact.p99 / 200) << octave;
    EXPECT_NEAR(found.mean, exact.mean, exact.mean * 1e-12) << octave;
    EXPECT_EQ(found.max, exact.max) << octave;
  }
}

TEST(TimeCountsDeathTest, AreNotNegative) {
  TimeCounts counts;
  EXPECT_DEATH(counts.add(Time(-1)), "a span of -1 ns");
}

}  // namespace
}  // namespace chorale::simulate
