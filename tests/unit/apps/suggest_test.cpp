#include "apps/suggest.h"

#include <array>

#include <gtest/gtest.h>

namespace chorale::apps {
namespace {

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("same", "same"), 0U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("prot", "port"), 1U);  // a swap is one edit
  EXPECT_EQ(edit_distance("ab", "ba"), 1U);
  EXPECT_EQ(edit_distance("ca", "abc"), 3U);  // a swapped pair is not edited again
}

TEST(EditDistance, IsSymmetric) {
  const std::array<std::string, 6> words = {"", "model-path", "modle-path", "port", "sport", "dtype"};
  for (const std::string& a : words) {
    for (const std::string& b : words) EXPECT_EQ(edit_distance(a, b), edit_distance(b, a)) << a << " " << b;
  }
}

TEST(Nearest, FindsTypingErrors) {
  const std::array<std::string, 5> names = {"model-path", "port", "host", "max-total-tokens",
                                            "max-running-requests"};
  EXPECT_EQ(nearest("modle-path", names), "model-path");
  EXPECT_EQ(nearest("model_path", names), "model-path");
  EXPECT_EQ(nearest("prot", names), "port");
  EXPECT_EQ(nearest("max-total-token", names), "max-total-tokens");
  EXPECT_EQ(nearest("model", names), "model-path");
}

TEST(Nearest, GivesNothingWhereNothingIsNear) {
  const std::array<std::string, 2> names = {"model-path", "port"};
  EXPECT_EQ(nearest("frequency", names), std::nullopt);
  EXPECT_EQ(nearest("x", names), std::nullopt);
  EXPECT_EQ(nearest("", names), std::nullopt);
  EXPECT_EQ(nearest(std::string(100'000, 'a'), names), std::nullopt);
  EXPECT_EQ(nearest("port", {}), std::nullopt);
}

TEST(Nearest, TakesTheFirstOfEquals) {
  const std::array<std::string, 2> names = {"abcd", "abce"};
  EXPECT_EQ(nearest("abcf", names), "abcd");
}

}  // namespace
}  // namespace chorale::apps
