#include "base/random.h"

#include <cmath>
#include <cstdint>
#include <set>

#include <gtest/gtest.h>

namespace chorale {
namespace {

using Block = std::array<uint32_t, 4>;

// The known-answer vectors of the authors' library Random123 (philox4x32, 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, BitsAreTheFirstHalfOfTheBlock) {
  EXPECT_EQ(random_bits(0, 0, 0), 0xe169c58d6627e8d5u);
  const auto block = philox4x32({7, 3, 5, 0}, {2, 1});
  EXPECT_EQ(random_bits((uint64_t{1} << 32) | 2, 5, (uint64_t{3} << 32) | 7),
            (uint64_t{block[1]} << 32) | block[0]);
}

TEST(Random, EveryPartOfTheKeyMatters) {
  std::set<uint64_t> seen;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 40}) {
    for (uint32_t stream = 0; stream < 4; ++stream) {
      for (const uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{1} << 33}) {
        EXPECT_TRUE(seen.insert(random_bits(seed, stream, index)).second);
      }
    }
  }
}

TEST(Random, UniformHasTheRightRangeMeanAndVariance) {
  constexpr int n = 200000;
  double sum = 0;
  double sum_squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random_uniform(42, 1, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    sum_squares += u * u;
  }
  const double mean = sum / n;
  const double variance = sum_squares / n - mean * mean;
  EXPECT_NEAR(mean, 0.5, 4 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(variance, 1.0 / 12, 0.001);
}

}  // namespace
}  // namespace chorale
