#include "engine/kv_moves.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/memory_plan.h"
#include "model/kv_cache.h"
#include "parallel/sharding_plan.h"
#include "unit/engine/small_model.h"

namespace chorale::engine {
namespace {

ParallelPlan plan_of(const std::string& strategy) {
  const LoadOptions load = small_model(strategy);
  const int world = parallel::parse_strategy(strategy).world();
  const model::StepLimits limits =
      choose_limits(*load.config, load, parallel::parse_strategy(strategy).dp_size);
  return plan_parallel(*load.config, load.parallel, limits, std::vector<int>(static_cast<size_t>(world), 0));
}

parallel::Range heads_of(const ParallelPlan& plan, int rank) {
  const parallel::ShardedSizes sizes = model::sharded_sizes(small_config());
  return parallel::elements_of_chunks(plan.ranks[static_cast<size_t>(rank)].shard.kv, sizes.kv_heads, sizes);
}

// Eight ranks in a tensor-parallel group share KV heads.
TEST(KvMoves, BringEachRankItsHeadsInOrder) {
  const std::vector<KvBlockMove> moves{{0, 7, 0, 3}, {0, 2, 0, 9}};
  for (const std::string from : {"tp=1", "tp=2", "tp=4", "tp=8", "tp=2,dp=4"}) {
    for (const std::string to : {"tp=1", "tp=2", "tp=4", "tp=8", "tp=4,dp=2"}) {
      const ParallelPlan old_plan = plan_of(from), new_plan = plan_of(to);
      uint64_t heads = 0;
      for (int rank = 0; rank < new_plan.strategy.world(); ++rank) {
        const bool takes = rank < new_plan.strategy.tp_size;
        const parallel::Range mine = heads_of(new_plan, rank);
        size_t move = 0;
        int64_t next = 0;
        for (const KvHeads& piece : heads_for(rank, small_config(), old_plan, new_plan, moves)) {
          const std::string where = fmt::format("{} to {}, rank {}", from, to, rank);
          ASSERT_TRUE(takes) << where;
          ASSERT_LT(move, moves.size()) << where;
          EXPECT_LT(piece.from_rank, old_plan.strategy.tp_size) << where;
          EXPECT_EQ(piece.from_block, moves[move].from_block) << where;
          EXPECT_EQ(piece.to_block, moves[move].to_block) << where;
          EXPECT_EQ(piece.to_head, next) << where;
          EXPECT_EQ(heads_of(old_plan, piece.from_rank).begin + piece.from_head, mine.begin + next) << where;
          EXPECT_LE(piece.from_head + piece.num_heads, heads_of(old_plan, piece.from_rank).size()) << where;
          next += piece.num_heads;
          heads += static_cast<uint64_t>(piece.num_heads);
          if (next == mine.size()) {
            next = 0;
            ++move;
          }
        }
        EXPECT_EQ(move, takes ? moves.size() : 0U) << from << " to " << to << ", rank " << rank;
      }
      const auto head_bytes =
          static_cast<uint64_t>(model::KvCache::block_bytes(small_config(), 1, DType::bf16, DeviceKind::cpu));
      EXPECT_EQ(bytes_of_moves(small_config(), new_plan, DType::bf16, DeviceKind::cpu, moves),
                heads * head_bytes);
    }
  }
}

TEST(KvMoves, TakeThemFromTheGroupThatHasTheBlock) {
  const std::vector<KvBlockMove> moves{{2, 5, 1, 0}, {3, 4, 0, 1}};
  const ParallelPlan from = plan_of("tp=2,dp=4"), to = plan_of("tp=4,dp=2");
  for (int rank = 0; rank < 8; ++rank) {
    const KvBlockMove& move = moves[rank < 4 ? 1 : 0];
    const std::vector<KvHeads> pieces = heads_for(rank, small_config(), from, to, moves);
    ASSERT_EQ(pieces.size(), 1U);
    EXPECT_EQ(pieces[0].from_rank, 2 * move.from_group + rank % 4 / 2);
    EXPECT_EQ(pieces[0].from_block, move.from_block);
    EXPECT_EQ(pieces[0].from_head, rank % 2);
    EXPECT_EQ(pieces[0].to_block, move.to_block);
    EXPECT_EQ(pieces[0].to_head, 0);
    EXPECT_EQ(pieces[0].num_heads, 1);
  }
}

}  // namespace
}  // namespace chorale::engine
