#include "parallel/sharding_plan.h"

#include <gtest/gtest.h>

namespace chorale::parallel {
namespace {

TEST(CanonicalChunks, EightOrTheLargestPowerOfTwoBelowThatDivides) {
  for (int64_t size = 1; size < 2000; ++size) {
    const int64_t chunks = canonical_chunks(size, kMaxChunks);
    EXPECT_EQ(size % chunks, 0);
    EXPECT_TRUE(chunks == 1 || chunks == 2 || chunks == 4 || chunks == 8);
    if (chunks < 8) {
      EXPECT_NE(size % (2 * chunks), 0) << size;
    }
  }
}

TEST(CanonicalChunks, NoMoreThanRanksMaySplit) {
  for (const int64_t max_chunks : {1, 2, 4, 8}) {
    for (const int64_t size : {1, 2, 6, 12, 768, 151936}) {
      EXPECT_EQ(canonical_chunks(size, max_chunks), std::min(max_chunks, canonical_chunks(size, kMaxChunks)));
      EXPECT_EQ(ShardedSizes{.max_chunks = max_chunks}.chunks(size), canonical_chunks(size, max_chunks));
    }
  }
}

TEST(ShardingPlan, EveryKindOfWeightHasItsRule) {
  EXPECT_EQ(rule_for("model.embed_tokens.weight").split, Split::vocab_rows);
  EXPECT_EQ(rule_for("lm_head.weight").split, Split::output);
  EXPECT_EQ(rule_for("model.layers.17.self_attn.q_proj.bias").unit, ChunkUnit::query_heads);
  EXPECT_EQ(rule_for("model.layers.0.self_attn.v_proj.weight").unit, ChunkUnit::kv_heads);
  EXPECT_EQ(rule_for("model.layers.0.self_attn.o_proj.weight").split, Split::input);
  EXPECT_EQ(rule_for("model.layers.0.self_attn.o_proj.bias").split, Split::replicated);
  EXPECT_EQ(rule_for("model.layers.3.mlp.experts.127.down_proj.weight").split, Split::expert_input);
  EXPECT_EQ(rule_for("model.layers.3.mlp.experts.0.gate_proj.weight").split, Split::expert_output);
  EXPECT_EQ(rule_for("model.layers.3.mlp.gate_proj.weight").unit, ChunkUnit::intermediate);
  EXPECT_EQ(rule_for("model.layers.3.mlp.gate.weight").split, Split::replicated);
  EXPECT_EQ(rule_for("model.layers.3.post_attention_layernorm.weight").split, Split::replicated);
  EXPECT_EQ(rule_for("model.layers.3.self_attn.q_norm.weight").split, Split::replicated);
  EXPECT_EQ(rule_for("model.norm.weight").split, Split::replicated);
}

TEST(ShardingPlan, ChunksOfQwen3_30B) {
  const ShardedSizes sizes{
      .vocab = 151936, .query_heads = 32, .kv_heads = 4, .intermediate = 6144, .expert_intermediate = 768};
  EXPECT_EQ(num_chunks(rule_for("lm_head.weight"), sizes), 8);
  EXPECT_EQ(num_chunks(rule_for("model.layers.0.self_attn.k_proj.weight"), sizes), 4);
  EXPECT_EQ(num_chunks(rule_for("model.layers.0.mlp.experts.0.up_proj.weight"), sizes), 8);
  EXPECT_EQ(num_chunks(rule_for("model.norm.weight"), sizes), 1);
}

}  // namespace
}  // namespace chorale::parallel
