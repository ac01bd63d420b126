#include "engine/block_manager.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

std::vector<int32_t> tokens_from(int32_t first, int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

void commit_all(BlockManager& blocks, std::vector<int32_t>& table, std::span<const int32_t> tokens) {
  for (size_t i = 0; i < table.size(); ++i) {
    blocks.commit(table, static_cast<int64_t>(i), tokens.subspan(i * kBlockTokens, kBlockTokens));
  }
}

TEST(BlockManager, CountsFreeUsedAndCached) {
  BlockManager blocks(4, true);
  std::vector<int32_t> table;
  blocks.allocate(3, table);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_EQ(blocks.num_used(), 3);
  const auto tokens = tokens_from(0, 3 * kBlockTokens);
  blocks.commit(table, 0, std::span(tokens).first(kBlockTokens));
  blocks.release(table);
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(blocks.num_free(), 3);
  EXPECT_EQ(blocks.num_cached(), 1);
  EXPECT_EQ(blocks.num_available(), 4);
  EXPECT_EQ(blocks.num_used(), 0);
  blocks.check_invariants({});
}

TEST(BlockManager, SharesAPrefixAndEvictsItWhenRoomIsNeeded) {
  BlockManager blocks(4, true);
  const auto tokens = tokens_from(0, 3 * kBlockTokens);
  std::vector<int32_t> first;
  blocks.allocate(3, first);
  commit_all(blocks, first, tokens);
  std::vector<int32_t> second;
  EXPECT_EQ(blocks.acquire_prefix(std::span(tokens).first(3 * kBlockTokens - 1), second), 2 * kBlockTokens);
  EXPECT_EQ(second, std::vector<int32_t>(first.begin(), first.begin() + 2));
  const std::vector<const std::vector<int32_t>*> both{&first, &second};
  blocks.check_invariants(both);
  blocks.release(first);
  EXPECT_EQ(blocks.num_cached(), 1) << "only the block the second sequence does not use";
  std::vector<int32_t> third;
  blocks.allocate(2, third);
  EXPECT_EQ(blocks.num_available(), 0);
  const std::vector<const std::vector<int32_t>*> later{&second, &third};
  blocks.check_invariants(later);
  EXPECT_DEATH(blocks.allocate(1, third), "check failed");
}

TEST(BlockManager, AnEqualBlockIsKeptOnce) {
  BlockManager blocks(4, true);
  const auto tokens = tokens_from(0, 2 * kBlockTokens);
  std::vector<int32_t> first;
  std::vector<int32_t> second;
  blocks.allocate(2, first);
  blocks.allocate(2, second);
  commit_all(blocks, first, tokens);
  commit_all(blocks, second, tokens);
  EXPECT_EQ(first, second);
  EXPECT_EQ(blocks.num_free(), 2);
  const std::vector<const std::vector<int32_t>*> both{&first, &second};
  blocks.check_invariants(both);
}

TEST(BlockManager, FlushDropsOnlyWhatNobodyUses) {
  BlockManager blocks(4, true);
  const auto tokens = tokens_from(0, 2 * kBlockTokens);
  std::vector<int32_t> first;
  blocks.allocate(2, first);
  commit_all(blocks, first, tokens);
  std::vector<int32_t> user;
  blocks.acquire_prefix(std::span(tokens).first(kBlockTokens), user);
  blocks.release(first);
  blocks.flush();
  EXPECT_EQ(blocks.num_cached(), 0);
  EXPECT_EQ(blocks.num_free(), 3);
  std::vector<int32_t> found;
  EXPECT_EQ(blocks.acquire_prefix(tokens, found), kBlockTokens);
  const std::vector<const std::vector<int32_t>*> both{&user, &found};
  blocks.check_invariants(both);
}

TEST(BlockManager, WithoutAPrefixCacheNothingIsKept) {
  BlockManager blocks(2, false);
  const auto tokens = tokens_from(0, 2 * kBlockTokens);
  std::vector<int32_t> table;
  blocks.allocate(2, table);
  commit_all(blocks, table, tokens);
  blocks.release(table);
  EXPECT_EQ(blocks.num_free(), 2);
  EXPECT_EQ(blocks.acquire_prefix(tokens, table), 0);
  blocks.check_invariants({});
}

Hash128 two_hashes(const Hash128&, std::span<const int32_t> ids) {
  return {static_cast<uint64_t>(ids[0] & 1), 0};
}

// Random sequences over a small alphabet of blocks, against tables that remember what each holds.
void random_walk(BlockHasher hasher, uint32_t seed) {
  struct Holder {
    std::vector<int32_t> tokens;
    std::vector<int32_t> table;
  };
  std::mt19937 random(seed);
  auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  BlockManager blocks(12, true, hasher);
  std::vector<std::vector<int32_t>> content(12);  // what was computed into each block: the whole prefix
  std::vector<Holder> holders;
  int64_t hits = 0;
  for (int step = 0; step < 3000; ++step) {
    if (below(3) == 0 && !holders.empty()) {
      const auto i = static_cast<size_t>(below(static_cast<int>(holders.size())));
      blocks.release(holders[i].table);
      holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      Holder h;
      const int length = 1 + below(4);
      for (int b = 0; b < length; ++b) {
        const auto block = tokens_from(below(3), kBlockTokens);
        h.tokens.insert(h.tokens.end(), block.begin(), block.end());
      }
      hits += blocks.acquire_prefix(h.tokens, h.table);
      const auto missing = length - static_cast<int64_t>(h.table.size());
      if (missing > blocks.num_available()) {
        blocks.release(h.table);
      } else {
        const size_t cached = h.table.size();
        blocks.allocate(missing, h.table);
        for (size_t b = 0; b < h.table.size(); ++b) {
          const std::span<const int32_t> prefix = std::span(h.tokens).first((b + 1) * kBlockTokens);
          auto& held = content[static_cast<size_t>(h.table[b])];
          if (b < cached) {
            ASSERT_TRUE(std::ranges::equal(held, prefix)) << "a wrong hit";
          } else {
            held.assign(prefix.begin(), prefix.end());
            blocks.commit(h.table, static_cast<int64_t>(b), prefix.last(kBlockTokens));
          }
        }
        holders.push_back(std::move(h));
      }
    }
    if (blocks.num_cached() > 0 && below(100) == 0) blocks.flush();
    std::vector<const std::vector<int32_t>*> tables;
    for (const Holder& h : holders) {
      tables.push_back(&h.table);
      for (size_t b = 0; b < h.table.size(); ++b) {
        ASSERT_TRUE(std::ranges::equal(content[static_cast<size_t>(h.table[b])],
                                       std::span(h.tokens).first((b + 1) * kBlockTokens)));
      }
    }
    blocks.check_invariants(tables);
  }
  EXPECT_GT(hits, 0);
}

TEST(BlockManager, RandomWalkKeepsEveryInvariant) {
  for (uint32_t seed = 0; seed < 4; ++seed) random_walk(hash_block, seed);
}

TEST(BlockManager, RandomWalkWithCollidingHashes) {
  random_walk(two_hashes, 7);
}

// All blocks are cached, and one is spare.
class BlocksAhead : public testing::Test {
 protected:
  BlocksAhead() {
    blocks_.allocate(4, table_);
    for (int64_t b = 0; b < 4; ++b)
      blocks_.commit(table_, b, std::vector<int32_t>(kBlockTokens, static_cast<int32_t>(b)));
    blocks_.release(table_);
  }

  BlockManager blocks_{4, true, hash_block, kBlockTokens, 1};
  std::vector<int32_t> table_, other_;
};

TEST_F(BlocksAhead, CountAsTakenOnceTheyAreConfirmed) {
  EXPECT_EQ(blocks_.num_blocks(), 4);
  EXPECT_EQ(blocks_.num_cached(), 4);
  ASSERT_TRUE(blocks_.allocate_ahead(table_));
  EXPECT_FALSE(blocks_.allocate_ahead(other_)) << "the spare one is taken";
  EXPECT_EQ(blocks_.num_cached(), 4);
  EXPECT_EQ(blocks_.num_used(), 0);
  blocks_.confirm_ahead();
  EXPECT_EQ(blocks_.num_cached(), 3) << "one is evicted, and is spare from now on";
  EXPECT_EQ(blocks_.num_used(), 1);
  EXPECT_TRUE(blocks_.allocate_ahead(other_));
  blocks_.confirm_ahead();
  const std::vector<const std::vector<int32_t>*> tables{&table_, &other_};
  blocks_.check_invariants(tables);
  blocks_.release(table_);
  blocks_.release(other_);
  EXPECT_EQ(blocks_.num_free(), 2);
  EXPECT_EQ(blocks_.num_cached(), 2);
}

TEST_F(BlocksAhead, EvictNothingWhenTheyAreGivenBack) {
  ASSERT_TRUE(blocks_.allocate_ahead(table_));
  blocks_.release(table_);
  blocks_.cancel_ahead();
  EXPECT_EQ(blocks_.num_cached(), 4);
  EXPECT_EQ(blocks_.num_free(), 0);
}

TEST_F(BlocksAhead, EvictNothingWhenOthersBecameFree) {
  ASSERT_TRUE(blocks_.allocate_ahead(table_));
  blocks_.flush();
  blocks_.confirm_ahead();
  EXPECT_EQ(blocks_.num_free(), 3);
}

TEST_F(BlocksAhead, AreNotGivenWhenNoneIsLeftToConfirmThemWith) {
  blocks_.allocate(4, other_);
  EXPECT_FALSE(blocks_.allocate_ahead(table_)) << "the spare one counts as nobody's";
}

}  // namespace
}  // namespace chorale::engine
