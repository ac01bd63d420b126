#include "tools/compare/configs.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace chorale::tools {
namespace {

using parallel::ShardedSizes;
using parallel::Strategy;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr ShardedSizes kQwen30B{
    .vocab = 151936, .query_heads = 32, .kv_heads = 4, .expert_intermediate = 768};

std::vector<std::string> labels(const std::vector<NamedStrategy>& strategies) {
  std::vector<std::string> all;
  for (const NamedStrategy& s : strategies) all.push_back(label(s));
  return all;
}

TEST(Configs, TheNamedPointsOnEightRanks) {
  EXPECT_THAT(labels(strategies_of_config("simple", 8, kQwen30B)), ElementsAre("simple: 1 rank"));
  EXPECT_THAT(labels(strategies_of_config("ep", 8, kQwen30B)), ElementsAre("ep: tp=4 dp=2 ep=8"));
  EXPECT_THAT(labels(strategies_of_config("tp", 8, kQwen30B)), ElementsAre("tp: tp=8 moe_tp=8"));
  EXPECT_THAT(labels(strategies_of_config("both", 8, kQwen30B)),
              ElementsAre("ep: tp=4 dp=2 ep=8", "tp: tp=8 moe_tp=8"));
  EXPECT_THAT(labels(strategies_of_config("all", 8, kQwen30B)),
              ElementsAre("simple: 1 rank", "ep: tp=4 dp=2 ep=8", "tp: tp=8 moe_tp=8", "dp: dp=8 moe_dp=8",
                          "dp=8 ep=8", "tp=8 ep=8", "tp=4 dp=2 moe_tp=4 moe_dp=2", "tp=4 dp=2 ep=4 moe_dp=2",
                          "tp=8 ep=4 moe_tp=2"));
}

TEST(Configs, OneRankIsOneStrategy) {
  EXPECT_THAT(labels(strategies_of_config("all", 1, kQwen30B)), ElementsAre("simple: 1 rank"));
  EXPECT_THAT(labels(strategies_of_config("ep", 1, kQwen30B)), ElementsAre("ep: 1 rank"));
}

TEST(Configs, ExpertParallelTakesTheLargestTensorParallelSizeThatWorks) {
  const auto ep = [](int ranks, int64_t query_heads, int64_t kv_heads) {
    const ShardedSizes sizes{
        .vocab = 100, .query_heads = query_heads, .kv_heads = kv_heads, .expert_intermediate = 64};
    return label(strategies_of_config("ep", ranks, sizes).front());
  };
  EXPECT_EQ(ep(16, 32, 4), "ep: tp=8 dp=2 ep=16");
  EXPECT_EQ(ep(32, 32, 4), "ep: tp=8 dp=4 ep=32");  // heads come in 8 chunks
  EXPECT_EQ(ep(8, 6, 6), "ep: tp=2 dp=4 ep=8");
  EXPECT_EQ(ep(8, 3, 1), "ep: dp=8 ep=8");
  EXPECT_EQ(ep(2, 8, 4), "ep: dp=2 ep=2");
  EXPECT_EQ(ep(3, 8, 4), "ep: dp=3 ep=3");
  EXPECT_EQ(ep(12, 8, 4), "ep: tp=4 dp=3 ep=12");
}

TEST(Configs, EveryPointUsesAllRanksAndComesOnce) {
  for (int ranks = 2; ranks <= 32; ++ranks) {
    std::set<std::string> seen;
    for (const NamedStrategy& s : strategies_of_config("all", ranks, kQwen30B)) {
      ASSERT_TRUE(s.strategy.has_value());
      EXPECT_EQ(s.strategy->world(), s.name == "simple" ? 1 : ranks) << label(s);
      EXPECT_NO_THROW(parallel::check_sizes(*s.strategy)) << label(s);
      EXPECT_TRUE(seen.insert(parallel::to_string(*s.strategy)).second) << label(s);
    }
    EXPECT_GE(seen.size(), 4U) << ranks;
  }
}

TEST(Configs, MistakesNameTheFlag) {
  EXPECT_THAT([] { strategies_of_config("fast", 8, kQwen30B); },
              ThrowsMessage<Error>(
                  AllOf(HasSubstr("--config"), HasSubstr("fast"), HasSubstr("simple, ep, tp, both, all"))));
  EXPECT_THAT([] { strategies_of_config("ep", 0, kQwen30B); },
              ThrowsMessage<Error>(HasSubstr("--ranks is 0")));
  EXPECT_THAT([] { strategies_of_config("ep", 2000, kQwen30B); },
              ThrowsMessage<Error>(HasSubstr("--ranks is 2000")));
}

TEST(StrategyText, IsParsedOrSaysWhyNot) {
  const NamedStrategy good = strategy_from_text("tp=4,dp=2,ep=8");
  EXPECT_EQ(good.strategy, (Strategy{.tp_size = 4, .dp_size = 2, .ep_size = 8}));
  EXPECT_EQ(label(good), "tp=4 dp=2 ep=8");
  EXPECT_EQ(good.error, "");
  for (const char* text : {"", "tp", "tp=x", "tq=4", "tp=4,ep=3"}) {
    const NamedStrategy bad = strategy_from_text(text);
    EXPECT_FALSE(bad.strategy.has_value()) << text;
    EXPECT_EQ(label(bad), text);
    EXPECT_THAT(bad.error, HasSubstr("--strategy")) << text;
  }
}

}  // namespace
}  // namespace chorale::tools
