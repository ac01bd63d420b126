#include "tools/distribution.h"

#include <gtest/gtest.h>

namespace chorale::tools {
namespace {

// The expected values are numpy.percentile's.
TEST(Percentile, IsInterpolated) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(percentile(values, 50), 3);
  EXPECT_DOUBLE_EQ(percentile(values, 75), 5);
  EXPECT_DOUBLE_EQ(percentile(values, 99), 7.88);
  EXPECT_DOUBLE_EQ(percentile(values, 100), 8);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
}

TEST(Summary, OfValuesInAnyOrder) {
  const auto d = summarize({8, 1, 4, 2});
  ASSERT_TRUE(d.has_value());
  EXPECT_DOUBLE_EQ(d->mean, 3.75);
  EXPECT_DOUBLE_EQ(d->median, 3);
  EXPECT_DOUBLE_EQ(d->p99, 7.88);
  EXPECT_FALSE(summarize({}).has_value());
}

}  // namespace
}  // namespace chorale::tools
