#include "engine/agreement.h"

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

TEST(Agreement, TellsTheFirstDifference) {
  const std::vector<Given> first = {{"the program", "a"}, {"config.json", "1"}, {"--dtype", "bf16"}};
  const std::vector<Given> other_type = {{"the program", "a"}, {"config.json", "1"}, {"--dtype", "f32"}};
  const std::vector<Given> other_config = {{"the program", "a"}, {"config.json", "2"}, {"--dtype", "f32"}};
  const std::vector<Given> shorter = {{"the program", "a"}};
  EXPECT_EQ(difference(first, first), "");
  EXPECT_EQ(difference(first, other_type), "--dtype: f32, rank 0 has bf16");
  EXPECT_EQ(difference(first, other_config), "config.json: 2, rank 0 has 1");
  EXPECT_EQ(difference(first, shorter), "what ranks compare");
  EXPECT_EQ(difference(shorter, first), "what ranks compare");
}

}  // namespace
}  // namespace chorale::engine
