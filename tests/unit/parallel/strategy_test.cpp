#include "parallel/strategy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/parallel/error_text.h"

namespace chorale::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr ShardedSizes kQwen3_30B{
    .vocab = 151936, .query_heads = 32, .kv_heads = 4, .expert_intermediate = 768};

std::string resolve_error(const StrategyFlags& flags, int64_t num_experts = 128) {
  return error_text([&] { resolve_strategy(flags, num_experts); });
}

std::string check_error(const Strategy& strategy, const ShardedSizes& sizes = kQwen3_30B) {
  return error_text([&] { check_strategy(strategy, sizes); });
}

TEST(Strategy, TheThreeNamedOnes) {
  EXPECT_EQ(resolve_strategy({.tp_size = 1, .dp_size = 1}, 128), Strategy{});
  EXPECT_EQ(resolve_strategy({.tp_size = 4, .dp_size = 2, .ep_size = 8, .enable_ep_moe = true}, 128),
            (Strategy{.tp_size = 4, .dp_size = 2, .ep_size = 8}));
  EXPECT_EQ(resolve_strategy({.tp_size = 8, .dp_size = 1}, 128), (Strategy{.tp_size = 8, .moe_tp_size = 8}));
}

TEST(Strategy, NoFlagsMeanOneRank) {
  EXPECT_EQ(resolve_strategy({}, 1), Strategy{});
  EXPECT_EQ(Strategy{}.world(), 1);
}

TEST(Strategy, DataParallelReplicasHaveTheirOwnExpertsUntilEpIsLargerThanTp) {
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 4, .dp_size = 2}, 8)), "tp=4,dp=2,ep=1,moe_tp=4,moe_dp=2");
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 4, .dp_size = 2, .ep_size = 2}, 8)),
            "tp=4,dp=2,ep=2,moe_tp=2,moe_dp=2");
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 4, .dp_size = 2, .ep_size = 4}, 8)),
            "tp=4,dp=2,ep=4,moe_tp=1,moe_dp=2");
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 2, .dp_size = 4, .ep_size = 4}, 8)),
            "tp=2,dp=4,ep=4,moe_tp=2,moe_dp=1");
}

TEST(Strategy, EveryDivisorOfTheWorldWorksAsEpSize) {
  // 2 does not divide tp_size 3, so the two replicas cannot have experts of their own.
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 3, .dp_size = 2, .ep_size = 2}, 8)),
            "tp=3,dp=2,ep=2,moe_tp=3,moe_dp=1");
}

TEST(Strategy, MoeSizesThatAreGiven) {
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 8, .ep_size = 2, .moe_tp_size = 2}, 8)),
            "tp=8,dp=1,ep=2,moe_tp=2,moe_dp=2");
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 8, .moe_dp_size = 4}, 8)),
            "tp=8,dp=1,ep=1,moe_tp=2,moe_dp=4");
  EXPECT_EQ(to_string(resolve_strategy({.dp_size = 8, .ep_size = 2, .moe_tp_size = 2, .moe_dp_size = 2}, 8)),
            "tp=1,dp=8,ep=2,moe_tp=2,moe_dp=2");
}

TEST(Strategy, EnableEpMoeMeansTpSize) {
  EXPECT_EQ(resolve_strategy({.tp_size = 4, .dp_size = 2, .enable_ep_moe = true}, 8).ep_size, 4);
  EXPECT_EQ(resolve_strategy({.tp_size = 4, .ep_size = 2, .enable_ep_moe = true}, 8).ep_size, 2);
  EXPECT_EQ(
      resolve_strategy({.tp_size = 8, .dp_size = 4, .enable_ep_moe = true, .enable_dp_attention = true}, 8),
      (Strategy{.tp_size = 2, .dp_size = 4, .ep_size = 8}));
}

TEST(Strategy, DpAttentionSharesExpertsAmongAllRanks) {
  EXPECT_EQ(to_string(resolve_strategy({.tp_size = 8, .dp_size = 2, .enable_dp_attention = true}, 8)),
            "tp=4,dp=2,ep=1,moe_tp=8,moe_dp=1");
  EXPECT_EQ(
      to_string(resolve_strategy({.tp_size = 8, .dp_size = 8, .ep_size = 2, .enable_dp_attention = true}, 8)),
      "tp=1,dp=8,ep=2,moe_tp=4,moe_dp=1");
  EXPECT_THAT(resolve_error({.tp_size = 8, .dp_size = 3, .enable_dp_attention = true}),
              AllOf(HasSubstr("--dp-size 3"), HasSubstr("--tp-size 8"), HasSubstr("work are 1, 2, 4, 8")));
}

TEST(Strategy, SingleExpertModes) {
  const StrategyFlags dp{.tp_size = 4, .dp_size = 2, .single_expert_mode = "dp"};
  EXPECT_EQ(resolve_strategy(dp, 1), (Strategy{.tp_size = 4, .dp_size = 2, .ep_size = 8}));
  const StrategyFlags tp{.tp_size = 4, .dp_size = 2, .single_expert_mode = "tp"};
  EXPECT_EQ(resolve_strategy(tp, 1),
            (Strategy{.tp_size = 4, .dp_size = 2, .moe_tp_size = 4, .moe_dp_size = 2}));
  EXPECT_THAT(resolve_error(dp, 128), AllOf(HasSubstr("--single-expert-mode dp"), HasSubstr("128")));
  EXPECT_THAT(resolve_error({.single_expert_mode = "pp"}, 1),
              AllOf(HasSubstr("\"pp\""), HasSubstr("dp, tp")));
}

TEST(Strategy, FlagsThatContradictTheSingleExpertModeAreNamedWithIt) {
  EXPECT_THAT(resolve_error({.tp_size = 8, .ep_size = 4, .single_expert_mode = "dp"}, 1),
              AllOf(HasSubstr("--single-expert-mode dp"), HasSubstr("--ep-size 4")));
  EXPECT_THAT(resolve_error({.tp_size = 8, .ep_size = 4, .single_expert_mode = "tp"}, 1),
              AllOf(HasSubstr("--single-expert-mode tp"), HasSubstr("--ep-size 4")));
  EXPECT_THAT(resolve_error({.tp_size = 8, .single_expert_mode = "tp", .enable_ep_moe = true}, 1),
              AllOf(HasSubstr("--single-expert-mode tp"), HasSubstr("--enable-ep-moe")));
  EXPECT_THAT(resolve_error({.tp_size = 8, .moe_tp_size = 2, .single_expert_mode = "dp"}, 1),
              AllOf(HasSubstr("--single-expert-mode dp"), HasSubstr("--moe-tp-size 2")));
  EXPECT_THAT(resolve_error({.tp_size = 8, .moe_dp_size = 2, .single_expert_mode = "dp"}, 1),
              AllOf(HasSubstr("--single-expert-mode dp"), HasSubstr("--moe-dp-size 2")));
  EXPECT_EQ(resolve_error({.tp_size = 8, .ep_size = 8, .single_expert_mode = "dp", .enable_ep_moe = true}, 1),
            "");
}

TEST(Strategy, SizesOutOfRange) {
  EXPECT_EQ(resolve_error({.tp_size = 0}), "--tp-size is 0; it must be a number from 1 to 1024");
  EXPECT_EQ(resolve_error({.ep_size = -3}), "--ep-size is -3; it must be a number from 1 to 1024");
  EXPECT_THAT(resolve_error({.tp_size = 8, .dp_size = 1000}),
              AllOf(HasSubstr("8000 ranks"), HasSubstr("--dp-size that work are 1 to 128")));
}

TEST(Strategy, SizesThatLeaveRanksOver) {
  EXPECT_EQ(resolve_error({.tp_size = 4, .dp_size = 3, .ep_size = 5}),
            "--ep-size 5 does not divide the 12 ranks; the values that work are 1, 2, 3, 4, 6, 12");
  EXPECT_THAT(resolve_error({.tp_size = 8, .ep_size = 2, .moe_tp_size = 8}),
              AllOf(HasSubstr("--moe-tp-size 8"), HasSubstr("= 4"), HasSubstr("work are 1, 2, 4")));
  EXPECT_THAT(resolve_error({.tp_size = 8, .moe_dp_size = 3}),
              AllOf(HasSubstr("--moe-dp-size 3"), HasSubstr("work are 1, 2, 4, 8")));
  EXPECT_THAT(resolve_error({.tp_size = 8, .moe_tp_size = 2, .moe_dp_size = 2}),
              AllOf(HasSubstr("--moe-dp-size 2"), HasSubstr("--moe-dp-size that works is 4")));
}

TEST(ParseStrategy, FillsInWhatIsMissing) {
  EXPECT_EQ(parse_strategy("tp=4,dp=2,ep=8"), (Strategy{.tp_size = 4, .dp_size = 2, .ep_size = 8}));
  EXPECT_EQ(parse_strategy("tp=8"), (Strategy{.tp_size = 8, .moe_tp_size = 8}));
  EXPECT_EQ(parse_strategy("moe_dp=2,dp=8,ep=2"),
            resolve_strategy({.dp_size = 8, .ep_size = 2, .moe_dp_size = 2}, 1));
}

TEST(ParseStrategy, ErrorsQuoteTheText) {
  for (const char* text : {"", ",", "tp", "tp=", "tp=x", "tp=4x", "tp=4,", "pp=2", "tp=99999999999",
                           "tp=2,tp=2", "tp=-1", "tp= 4", "=4", "tp=3,ep=2", "tp==4"}) {
    EXPECT_THAT(error_text([&] { parse_strategy(text); }),
                HasSubstr(fmt::format("--strategy \"{}\": ", text)));
  }
}

TEST(CheckStrategy, TensorParallelRanksOwnWholeChunks) {
  for (const int tp : {1, 2, 4, 8}) EXPECT_EQ(check_error({.tp_size = tp, .moe_tp_size = tp}), "");
  EXPECT_THAT(
      check_error({.tp_size = 3, .ep_size = 3}),
      AllOf(HasSubstr("--tp-size makes 3"), HasSubstr("32 query heads"), HasSubstr("work are 1, 2, 4, 8")));
  EXPECT_THAT(check_error({.tp_size = 16, .ep_size = 16}), HasSubstr("work are 1, 2, 4, 8"));
}

TEST(CheckStrategy, KeyValueHeadsAreSplitOrShared) {
  EXPECT_EQ(check_error({.tp_size = 8, .ep_size = 8}, {.query_heads = 8, .kv_heads = 1}), "");
  EXPECT_THAT(check_error({.tp_size = 4, .ep_size = 4}, {.query_heads = 24, .kv_heads = 6}),
              AllOf(HasSubstr("--tp-size"), HasSubstr("6 key/value heads"), HasSubstr("work are 1, 2")));
}

TEST(CheckStrategy, DenseLayersAreSplitAsAttentionIs) {
  EXPECT_THAT(
      check_error({.tp_size = 8, .ep_size = 8}, {.query_heads = 8, .kv_heads = 8, .intermediate = 12}),
      AllOf(HasSubstr("--tp-size"), HasSubstr("intermediate_size 12"), HasSubstr("work are 1, 2, 4")));
}

TEST(CheckStrategy, ExpertsAreSplitInWholeChunks) {
  const ShardedSizes sizes{.query_heads = 8, .kv_heads = 8, .expert_intermediate = 100};
  EXPECT_EQ(check_error({.tp_size = 8, .ep_size = 2, .moe_tp_size = 4}, sizes), "");
  EXPECT_THAT(check_error({.tp_size = 8, .moe_tp_size = 8}, sizes),
              AllOf(HasSubstr("--moe-tp-size is 8"), HasSubstr("moe_intermediate_size 100"),
                    HasSubstr("work are 1, 2, 4")));
  // Data parallelism splits nothing, so any number of ranks works.
  EXPECT_EQ(check_error({.dp_size = 7, .ep_size = 7}, sizes), "");
}

TEST(CheckStrategy, SizesThatDoNotAgree) {
  EXPECT_THAT(check_error({.tp_size = 8}), AllOf(HasSubstr("--ep-size 1"), HasSubstr("= 8 ranks")));
  EXPECT_THAT(check_error({.tp_size = 1000, .dp_size = 1000}), HasSubstr("1000000 ranks"));
  EXPECT_THAT(check_error({.ep_size = 0}), HasSubstr("--ep-size is 0"));
  EXPECT_THAT(check_error({}, {}), HasSubstr("0 query heads"));
}

}  // namespace
}  // namespace chorale::parallel
