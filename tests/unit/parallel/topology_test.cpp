#include "parallel/topology.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/parallel/error_text.h"

namespace chorale::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::array kAllKinds = {
    GroupKind::world,         GroupKind::attention_tp, GroupKind::attention_dp, GroupKind::expert_parallel,
    GroupKind::expert_tensor, GroupKind::expert_data,  GroupKind::expert_group};

// Every strategy of up to `most` ranks.
std::vector<Strategy> all_strategies(int most) {
  std::vector<Strategy> all;
  for (int world = 1; world <= most; ++world)
    for (int tp = 1; tp <= world; ++tp)
      for (int ep = 1; ep <= world; ++ep)
        for (int moe_tp = 1; moe_tp <= world; ++moe_tp)
          if (world % tp == 0 && world % (ep * moe_tp) == 0)
            all.push_back({tp, world / tp, ep, moe_tp, world / ep / moe_tp});
  return all;
}

TEST(Topology, ByHand) {
  // Two data-parallel groups of four; experts split two by two within each.
  const Strategy strategy{.tp_size = 4, .dp_size = 2, .ep_size = 2, .moe_tp_size = 2, .moe_dp_size = 2};
  const Topology t(strategy, 6);
  EXPECT_THAT(t.group(GroupKind::world).ranks, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(t.group(GroupKind::attention_tp).ranks, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(t.group(GroupKind::attention_dp).ranks, ElementsAre(2, 6));
  EXPECT_THAT(t.group(GroupKind::expert_parallel).ranks, ElementsAre(4, 6));
  EXPECT_THAT(t.group(GroupKind::expert_tensor).ranks, ElementsAre(6, 7));
  EXPECT_THAT(t.group(GroupKind::expert_data).ranks, ElementsAre(2, 6));
  EXPECT_THAT(t.group(GroupKind::expert_group).ranks, ElementsAre(4, 5, 6, 7));
  EXPECT_EQ(t.tensor_model_parallel_rank(), 2);
  EXPECT_EQ(t.data_parallel_rank(), 1);
  EXPECT_EQ(t.moe_expert_parallel_rank(), 1);
  EXPECT_EQ(t.moe_tensor_parallel_rank(), 0);
  EXPECT_EQ(t.moe_data_parallel_rank(), 1);
  EXPECT_THAT(to_string(t),
              HasSubstr("rank 6: world 6 of 8 [0 1 2 3 4 5 6 7] attention_tp 2 of 4 [4 5 6 7]"));
}

TEST(Topology, SharedExpertsReachAcrossDataParallelGroups) {
  const Topology t({.tp_size = 4, .dp_size = 2, .ep_size = 8}, 5);
  EXPECT_EQ(t.group(GroupKind::expert_group).size(), 8);
  EXPECT_EQ(t.moe_expert_parallel_rank(), 5);
  EXPECT_EQ(t.moe_tensor_parallel_world_size(), 1);
}

TEST(Topology, QueriesAgreeWithTheStrategyAndTheRankLayout) {
  for (const Strategy& s : all_strategies(12)) {
    for (int rank = 0; rank < s.world(); ++rank) {
      const Topology t(s, rank);
      EXPECT_EQ(t.world_size(), s.world());
      EXPECT_EQ(t.tensor_model_parallel_world_size(), s.tp_size);
      EXPECT_EQ(t.data_parallel_world_size(), s.dp_size);
      EXPECT_EQ(t.moe_expert_parallel_world_size(), s.ep_size);
      EXPECT_EQ(t.moe_tensor_parallel_world_size(), s.moe_tp_size);
      EXPECT_EQ(t.moe_data_parallel_world_size(), s.moe_dp_size);
      EXPECT_EQ(t.group(GroupKind::expert_group).size(), s.ep_size * s.moe_tp_size);
      EXPECT_EQ(t.data_parallel_rank() * s.tp_size + t.tensor_model_parallel_rank(), rank);
      EXPECT_EQ((t.moe_data_parallel_rank() * s.ep_size + t.moe_expert_parallel_rank()) * s.moe_tp_size +
                    t.moe_tensor_parallel_rank(),
                rank);
      EXPECT_EQ(t, Topology(s, rank));
    }
  }
}

// All ranks see the same groups of one kind, and these partition the world.
void expect_partition(GroupKind kind, const std::vector<Topology>& ranks) {
  std::map<int, std::vector<int>> by_color;
  for (const Topology& t : ranks) {
    const Group& group = t.group(kind);
    EXPECT_TRUE(std::is_sorted(group.ranks.begin(), group.ranks.end()));
    ASSERT_LT(static_cast<size_t>(group.index), group.ranks.size());
    EXPECT_EQ(group.ranks[static_cast<size_t>(group.index)], t.rank());
    const auto [known, is_new] = by_color.emplace(group.color(), group.ranks);
    EXPECT_EQ(known->second, group.ranks) << name_of(kind);
  }
  std::vector<int> all;
  for (const auto& [color, members] : by_color) all.insert(all.end(), members.begin(), members.end());
  std::sort(all.begin(), all.end());
  std::vector<int> world(ranks.size());
  std::iota(world.begin(), world.end(), 0);
  EXPECT_EQ(all, world) << name_of(kind);
}

TEST(Topology, GroupsPartitionTheWorldTheSameFromEveryView) {
  for (const Strategy& s : all_strategies(12)) {
    SCOPED_TRACE(to_string(s));
    std::vector<Topology> ranks;
    for (int rank = 0; rank < s.world(); ++rank) ranks.emplace_back(s, rank);
    for (const GroupKind kind : kAllKinds) expect_partition(kind, ranks);
  }
}

TEST(Topology, ExpertParallelAndTensorGroupsSpanTheExpertGroup) {
  for (const Strategy& s : all_strategies(12)) {
    const Topology t(s, s.world() - 1);
    std::set<int> reached;
    for (const int r : t.group(GroupKind::expert_parallel).ranks) {
      const Topology other(s, r);
      const Group& split = other.group(GroupKind::expert_tensor);
      reached.insert(split.ranks.begin(), split.ranks.end());
    }
    const Group& group = t.group(GroupKind::expert_group);
    EXPECT_EQ(reached, std::set<int>(group.ranks.begin(), group.ranks.end()));
  }
}

TEST(Topology, RefusesSizesThatDoNotAgree) {
  EXPECT_THAT(error_text([] { Topology({.tp_size = 8}, 0); }), HasSubstr("--tp-size 8"));
  EXPECT_THAT(error_text([] { Topology({.tp_size = 0}, 0); }), HasSubstr("--tp-size is 0"));
}

TEST(EvenRange, CoversAllInOrderAndDiffersByOneAtMost) {
  for (int64_t total = 0; total < 40; ++total)
    for (int parts = 1; parts < 12; ++parts) {
      int64_t next = 0;
      for (int i = 0; i < parts; ++i) {
        const Range range = even_range(total, parts, i);
        EXPECT_EQ(range.begin, next);
        EXPECT_TRUE(range.size() == total / parts || range.size() == total / parts + 1);
        next = range.end;
      }
      EXPECT_EQ(next, total);
    }
}

TEST(Shards, OfQwen3_30BOnEightRanks) {
  const ShardedSizes sizes{
      .vocab = 151936, .query_heads = 32, .kv_heads = 4, .intermediate = 6144, .expert_intermediate = 768};
  const Topology t({.tp_size = 8, .ep_size = 2, .moe_tp_size = 4}, 5);
  EXPECT_EQ(query_head_chunks(t, sizes), (Range{5, 6}));
  EXPECT_EQ(elements_of_chunks(query_head_chunks(t, sizes), sizes.query_heads, sizes), (Range{20, 24}));
  EXPECT_EQ(kv_head_chunks(t, sizes), (Range{2, 3}));  // shared with rank 4
  EXPECT_EQ(intermediate_chunks(t, sizes), (Range{5, 6}));
  EXPECT_EQ(expert_intermediate_chunks(t, sizes), (Range{2, 4}));
  EXPECT_EQ(elements_of_chunks({2, 4}, 768, sizes), (Range{192, 384}));
  EXPECT_EQ(vocab_chunks(t, sizes), (Range{5, 6}));
  EXPECT_EQ(elements_of_chunks({5, 6}, 151936, sizes), (Range{94960, 113952}));
}

TEST(Shards, ByShardingRule) {
  const ShardedSizes sizes{
      .vocab = 16, .query_heads = 8, .kv_heads = 2, .intermediate = 32, .expert_intermediate = 64};
  const Topology t({.tp_size = 2, .moe_tp_size = 2}, 1);
  EXPECT_EQ(chunks_for(rule_for("lm_head.weight"), t, sizes), (Range{4, 8}));
  EXPECT_EQ(chunks_for(rule_for("model.layers.0.self_attn.o_proj.weight"), t, sizes), (Range{4, 8}));
  EXPECT_EQ(chunks_for(rule_for("model.layers.0.self_attn.k_proj.weight"), t, sizes), (Range{1, 2}));
  EXPECT_EQ(chunks_for(rule_for("model.layers.0.mlp.up_proj.weight"), t, sizes), (Range{4, 8}));
  EXPECT_EQ(chunks_for(rule_for("model.layers.0.mlp.experts.0.up_proj.weight"), t, sizes), (Range{4, 8}));
  EXPECT_EQ(chunks_for(rule_for("model.norm.weight"), t, sizes), (Range{0, 1}));
}

TEST(Shards, VocabularyMayBeUnevenOrEmpty) {
  const ShardedSizes odd{.vocab = 33, .query_heads = 8, .kv_heads = 8};  // one chunk
  const Strategy strategy{.tp_size = 4, .ep_size = 4};
  EXPECT_EQ(vocab_chunks(Topology(strategy, 0), odd), (Range{0, 1}));
  EXPECT_TRUE(vocab_chunks(Topology(strategy, 3), odd).empty());
}

// Chunks that no two ranks share must all be owned once.
void expect_owned_once(int64_t size, const std::vector<Range>& shares, const Strategy& s) {
  std::vector<int> owners(static_cast<size_t>(canonical_chunks(size, kMaxChunks)), 0);
  for (const Range& share : shares)
    for (int64_t c = share.begin; c < share.end; ++c) ++owners.at(static_cast<size_t>(c));
  for (const int n : owners) EXPECT_EQ(n, 1) << to_string(s) << " size " << size;
}

TEST(Shards, RanksOfAGroupOwnEveryChunkOnce) {
  int checked = 0;
  for (const Strategy& s : all_strategies(8)) {
    for (const int64_t size : {1, 2, 4, 6, 8, 12, 33, 64}) {
      const ShardedSizes sizes{
          .vocab = size, .query_heads = 48, .kv_heads = size, .intermediate = 0, .expert_intermediate = size};
      if (!error_text([&] { check_strategy(s, sizes); }).empty()) continue;
      ++checked;
      std::vector<Range> query_heads, experts, vocab;
      for (int i = 0; i < s.tp_size; ++i) {
        const Topology t(s, i);
        query_heads.push_back(query_head_chunks(t, sizes));
        vocab.push_back(vocab_chunks(t, sizes));
      }
      for (int i = 0; i < s.moe_tp_size; ++i)
        experts.push_back(expert_intermediate_chunks(Topology(s, i), sizes));
      expect_owned_once(48, query_heads, s);
      expect_owned_once(size, vocab, s);
      expect_owned_once(size, experts, s);
    }
  }
  EXPECT_GT(checked, 100);
}

TEST(Shards, KeyValueHeadsAreThoseThatTheQueryHeadsRead) {
  for (const int tp : {1, 2, 4, 8})
    for (const int64_t kv_heads : {1, 2, 4, 8, 16, 24})
      for (const int64_t per_kv : {1, 2, 3, 8}) {
        const ShardedSizes sizes{.query_heads = kv_heads * per_kv, .kv_heads = kv_heads};
        const Strategy s{.tp_size = tp, .ep_size = tp};
        if (!error_text([&] { check_strategy(s, sizes); }).empty()) continue;
        for (int rank = 0; rank < tp; ++rank) {
          const Topology t(s, rank);
          const Range queries = elements_of_chunks(query_head_chunks(t, sizes), sizes.query_heads, sizes);
          const Range held = elements_of_chunks(kv_head_chunks(t, sizes), kv_heads, sizes);
          EXPECT_EQ(held.begin, queries.begin / per_kv);
          EXPECT_EQ(held.end, (queries.end - 1) / per_kv + 1);
          if (tp > kv_heads) {
            EXPECT_EQ(held.begin, rank * kv_heads / tp);
          }
        }
      }
}

}  // namespace
}  // namespace chorale::parallel
