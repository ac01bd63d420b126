#include "server/generation/stop_matcher.h"

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

struct Found {
  std::string text;
  std::optional<std::string> stop;
  bool operator==(const Found&) const = default;
};

// The definition, word by word: the first end of any occurrence; of those that end there, the longest.
Found brute_force(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<std::string> best;
    for (const std::string& stop : stops) {
      if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (!best || stop.size() > best->size()) best = stop;
    }
    if (best) return {text.substr(0, end - best->size()), best};
  }
  return {text, std::nullopt};
}

// Text that must be held back: the longest end of `text` that begins a stop string.
size_t longest_beginning(const std::string& text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = 1; n < stop.size() && n <= text.size(); ++n) {
      if (text.compare(text.size() - n, n, stop, 0, n) == 0) longest = std::max(longest, n);
    }
  }
  return longest;
}

TEST(StopMatcher, PassesEverythingWithoutStops) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("abc").text, "abc");
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, HoldsBackABeginningAndReleasesItWhenItIsNone) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("xST").text, "x");
  EXPECT_EQ(matcher.push("A").text, "STA");
  EXPECT_EQ(matcher.push("ST").text, "");
  EXPECT_EQ(matcher.flush(), "ST");
}

TEST(StopMatcher, FindsAStopStringAcrossPieces) {
  StopMatcher matcher({"never", "\n\n"});
  EXPECT_EQ(matcher.push("one\n").text, "one");
  const auto result = matcher.push("\ntwo");
  EXPECT_EQ(result.text, "");
  ASSERT_TRUE(result.match);
  EXPECT_EQ(matcher.stop(*result.match), "\n\n");
}

TEST(StopMatcher, PrefersTheEarliestEndAndThenTheLongest) {
  StopMatcher matcher({"bc", "abcd", "abc"});
  const auto result = matcher.push("xabcd");
  EXPECT_EQ(result.text, "x");
  ASSERT_TRUE(result.match);
  EXPECT_EQ(matcher.stop(*result.match), "abc");
}

TEST(StopMatcher, AgreesWithBruteForceHoweverTheTextIsCut) {
  std::mt19937 random(7);
  const auto word = [&](size_t longest) {
    std::string text;
    for (size_t n = 1 + random() % longest; n > 0; --n) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  size_t matches = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = 1 + random() % 3; n > 0; --n) stops.push_back(word(7));
    const std::string text = word(24);
    const Found expected = brute_force(text, stops);
    matches += expected.stop.has_value();

    StopMatcher matcher(stops);
    Found found;
    size_t told = 0;
    for (size_t at = 0; at < text.size() && !found.stop;) {
      const size_t size = 1 + random() % 5;
      const std::string piece = text.substr(at, size);
      at += piece.size();
      const StopMatcher::Result result = matcher.push(piece);
      found.text += result.text;
      if (result.match) {
        found.stop = matcher.stop(*result.match);
      } else {
        told = found.text.size();
        ASSERT_EQ(told, at - longest_beginning(text.substr(0, at), stops))
            << "holds back too much or too little";
      }
    }
    if (!found.stop) found.text += matcher.flush();
    ASSERT_EQ(found, expected) << "text " << text << ", first stop " << stops[0];
  }
  EXPECT_GT(matches, 1000U);
}

}  // namespace
}  // namespace chorale::server
