#include "engine/prefix_cache.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

std::vector<int32_t> block_of(int32_t value) {
  std::vector<int32_t> ids(kBlockTokens);
  std::iota(ids.begin(), ids.end(), value * 100);
  return ids;
}

Hash128 always_the_same(const Hash128&, std::span<const int32_t>) {
  return {42, 42};
}

TEST(PrefixCache, FindsABlockOnlyUnderItsParentAndWithAllItsTokens) {
  PrefixCache cache(8);
  cache.insert(kNoBlock, 3, block_of(1));
  cache.insert(3, 5, block_of(2));
  EXPECT_EQ(cache.find(kNoBlock, block_of(1)), 3);
  EXPECT_EQ(cache.find(3, block_of(2)), 5);
  EXPECT_EQ(cache.find(kNoBlock, block_of(2)), kNoBlock);
  EXPECT_EQ(cache.find(3, block_of(1)), kNoBlock);
  for (size_t i = 0; i < static_cast<size_t>(kBlockTokens); ++i) {
    auto changed = block_of(1);
    ++changed[i];
    EXPECT_EQ(cache.find(kNoBlock, changed), kNoBlock) << "token " << i;
  }
  cache.check_invariants();
}

TEST(PrefixCache, CollidingHashesNeverGiveAWrongBlock) {
  PrefixCache cache(8, always_the_same);
  cache.insert(kNoBlock, 0, block_of(1));
  EXPECT_EQ(cache.find(kNoBlock, block_of(2)), kNoBlock);
  EXPECT_EQ(cache.find(0, block_of(1)), kNoBlock);
  cache.insert(kNoBlock, 1, block_of(2));
  cache.insert(0, 2, block_of(1));
  cache.insert(1, 3, block_of(1));
  EXPECT_EQ(cache.find(kNoBlock, block_of(1)), 0);
  EXPECT_EQ(cache.find(kNoBlock, block_of(2)), 1);
  EXPECT_EQ(cache.find(0, block_of(1)), 2);
  EXPECT_EQ(cache.find(1, block_of(1)), 3);
  cache.check_invariants();
  cache.mark_idle(2);
  EXPECT_EQ(cache.evict(), 2);
  EXPECT_EQ(cache.find(0, block_of(1)), kNoBlock);
  EXPECT_EQ(cache.find(1, block_of(1)), 3);
  cache.check_invariants();
}

TEST(PrefixCache, HashDependsOnParentTokensAndTheirOrder) {
  const auto a = block_of(1);
  auto swapped = a;
  std::swap(swapped[0], swapped[1]);
  const Hash128 base = hash_block({}, a);
  EXPECT_EQ(base, hash_block({}, a));
  EXPECT_NE(base, hash_block({}, swapped));
  EXPECT_NE(base, hash_block({1, 0}, a));
  EXPECT_NE(base, hash_block({0, 1}, a));
  for (size_t i = 0; i < a.size(); ++i) {
    auto changed = a;
    changed[i] ^= 1;
    const Hash128 other = hash_block({}, changed);
    EXPECT_NE(base.low, other.low);
    EXPECT_NE(base.high, other.high);
  }
}

TEST(PrefixCache, EvictsInOrderOfLastUseLeavesFirst) {
  PrefixCache cache(8);
  cache.insert(kNoBlock, 0, block_of(1));
  cache.insert(0, 1, block_of(2));
  cache.insert(kNoBlock, 2, block_of(3));
  EXPECT_EQ(cache.evict(), kNoBlock) << "everything is in use";
  cache.mark_idle(2);
  cache.mark_idle(1);
  cache.mark_idle(0);
  EXPECT_EQ(cache.num_idle(), 3);
  cache.mark_used(2);  // from the middle of nowhere: the oldest becomes the newest
  cache.mark_idle(2);
  cache.check_invariants();
  EXPECT_EQ(cache.evict(), 1);
  EXPECT_FALSE(cache.contains(1));
  EXPECT_EQ(cache.evict(), 0);
  EXPECT_EQ(cache.evict(), 2);
  EXPECT_EQ(cache.evict(), kNoBlock);
  EXPECT_EQ(cache.num_idle(), 0);
  cache.check_invariants();
}

TEST(PrefixCacheDeathTest, ABrokenChainIsCaught) {
  PrefixCache cache(4);
  EXPECT_DEATH(cache.insert(2, 0, block_of(1)), "check failed");
  cache.insert(kNoBlock, 0, block_of(1));
  EXPECT_DEATH(cache.insert(kNoBlock, 0, block_of(2)), "check failed");
  cache.insert(0, 1, block_of(2));
  cache.mark_idle(0);  // the parent before its child
  EXPECT_DEATH(cache.check_invariants(), "check failed");
  EXPECT_DEATH(cache.evict(), "check failed");
}

}  // namespace
}  // namespace chorale::engine
