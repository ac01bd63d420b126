#include "base/digest.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/build_id.h"

namespace chorale {
namespace {

uint64_t of(std::string_view text) {
  Digest digest;
  digest.add(text);
  return digest.value();
}

TEST(Digest, EveryBitOfEveryLengthCounts) {
  std::set<uint64_t> seen;
  size_t texts = 0;
  for (size_t length = 0; length <= 40; ++length) {
    std::string text(length, '\0');
    seen.insert(of(text));
    ++texts;
    for (size_t bit = 0; bit < 8 * length; ++bit, ++texts) {
      text[bit / 8] ^= static_cast<char>(1U << (bit % 8));
      seen.insert(of(text));
      text[bit / 8] ^= static_cast<char>(1U << (bit % 8));
    }
  }
  EXPECT_EQ(seen.size(), texts);
}

TEST(Digest, PiecesAndOrderCount) {
  Digest one, other, third;
  one.add("ab");
  one.add("c");
  other.add("a");
  other.add("bc");
  third.add("c");
  third.add("ab");
  EXPECT_NE(one.text(), other.text());
  EXPECT_NE(one.text(), third.text());
  EXPECT_EQ(one.text().size(), 16U);
}

TEST(BuildId, IsOfHexadecimalDigitsAndAlwaysTheSame) {
  EXPECT_EQ(build_id(), build_id());
  EXPECT_EQ(build_id().find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(build_id().size() % 2, 0U);
}

}  // namespace
}  // namespace chorale
