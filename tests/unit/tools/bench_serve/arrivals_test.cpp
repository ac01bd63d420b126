#include "tools/bench_serve/arrivals.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace chorale::bench_serve {
namespace {

TEST(ArrivalTimes, BeginAtOnceAndAscend) {
  const std::vector<double> times = arrival_times(1000, 20, 7);
  ASSERT_EQ(times.size(), 1000u);
  EXPECT_EQ(times.front(), 0);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  EXPECT_GT(times.back(), 0);
}

// The gaps of a Poisson process are exponential: mean and deviation are both 1 / rate. The seed is fixed, so
// this holds always or never.
TEST(ArrivalTimes, HaveTheRate) {
  for (const double rate : {0.5, 8.0, 1000.0}) {
    const std::vector<double> times = arrival_times(20001, rate, 3);
    const double mean = times.back() / 20000;
    double squares = 0;
    for (size_t i = 1; i < times.size(); ++i) squares += std::pow(times[i] - times[i - 1] - mean, 2);
    EXPECT_NEAR(mean * rate, 1, 0.03) << rate;
    EXPECT_NEAR(std::sqrt(squares / 20000) * rate, 1, 0.05) << rate;
  }
}

TEST(ArrivalTimes, FollowFromTheSeed) {
  EXPECT_EQ(arrival_times(50, 4, 1), arrival_times(50, 4, 1));
  EXPECT_NE(arrival_times(50, 4, 1), arrival_times(50, 4, 2));
  const std::vector<double> longer = arrival_times(80, 4, 1);
  EXPECT_EQ(arrival_times(50, 4, 1), std::vector(longer.begin(), longer.begin() + 50));
}

TEST(ArrivalTimes, AreAllZeroForAnInfiniteRate) {
  EXPECT_EQ(arrival_times(3, std::numeric_limits<double>::infinity(), 1), (std::vector<double>{0, 0, 0}));
  EXPECT_TRUE(arrival_times(0, 5, 1).empty());
}

}  // namespace
}  // namespace chorale::bench_serve
