#include "engine/agreement.h"

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

TEST(Agreement, TellsTheFirstDifference) {
  const std::vector<Given> first = {{"the program", "a"}, {"config.json", "1"}, {"--dtype", "bf16"}};
  std::vector<Given> other = first;
  EXPECT_EQ(difference(first, other), "");
  other[2].value = "f32";
  EXPECT_EQ(difference(first, other), "--dtype: f32, rank 0 has bf16");
  other[1].value = "2";
  EXPECT_EQ(difference(first, other), "config.json: 2, rank 0 has 1");
  other.resize(1);
  EXPECT_EQ(difference(first, other), "what ranks compare");
  EXPECT_EQ(difference(other, first), "what ranks compare");
}

}  // namespace
}  // namespace chorale::engine
