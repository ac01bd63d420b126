// Whatever the flags: a strategy that works, or an Error that names one of them.
#include <climits>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/strategy.h"
#include "unit/parallel/error_text.h"
#include "unit/parallel/random_draw.h"
#include "unit/random_cases.h"

namespace chorale::parallel {
namespace {

std::optional<int> random_size(RandomDraw& draw) {
  switch (draw.below(6)) {
    case 0:
    case 1:
      return std::nullopt;
    case 2:
      return draw.between(-3, 70);
    case 3:
      return draw.one_of({INT_MIN, INT_MAX, 0, 1024, 1025, 512, 65536});
    default:
      return draw.one_of({1, 1, 2, 2, 3, 4, 6, 8, 16, 64});
  }
}

StrategyFlags random_flags(RandomDraw& draw) {
  StrategyFlags flags{.tp_size = random_size(draw),
                      .dp_size = random_size(draw),
                      .ep_size = random_size(draw),
                      .moe_tp_size = random_size(draw),
                      .moe_dp_size = random_size(draw),
                      .enable_ep_moe = draw.chance(3),
                      .enable_dp_attention = draw.chance(3)};
  if (draw.chance(4))
    flags.single_expert_mode = std::vector{"dp", "tp", "", "DP"}[static_cast<size_t>(draw.below(4))];
  return flags;
}

std::vector<std::pair<std::string, std::optional<int>>> sizes_of(const StrategyFlags& flags) {
  return {{"--tp-size", flags.tp_size},
          {"--dp-size", flags.dp_size},
          {"--ep-size", flags.ep_size},
          {"--moe-tp-size", flags.moe_tp_size},
          {"--moe-dp-size", flags.moe_dp_size}};
}

std::string described(const StrategyFlags& flags) {
  std::string text;
  for (const auto& [name, value] : sizes_of(flags))
    if (value) text += fmt::format("{} {} ", name, *value);
  if (flags.enable_ep_moe) text += "--enable-ep-moe ";
  if (flags.enable_dp_attention) text += "--enable-dp-attention ";
  if (flags.single_expert_mode) text += "--single-expert-mode " + *flags.single_expert_mode;
  return text;
}

bool names_a_given_flag(const std::string& error, const StrategyFlags& flags) {
  for (const auto& [name, value] : sizes_of(flags))
    if (value && error.find(name) != std::string::npos) return true;
  return flags.single_expert_mode && error.find("--single-expert-mode") != std::string::npos;
}

// That what was given is what the strategy has.
void expect_keeps_flags(const Strategy& s, const StrategyFlags& flags) {
  const int tp_size = flags.tp_size.value_or(1);
  EXPECT_EQ(s.dp_size, flags.dp_size.value_or(1));
  EXPECT_EQ(flags.enable_dp_attention ? s.world() : s.tp_size, tp_size);
  EXPECT_EQ(s.ep_size, flags.ep_size.value_or(s.ep_size));
  EXPECT_EQ(s.moe_tp_size, flags.moe_tp_size.value_or(s.moe_tp_size));
  EXPECT_EQ(s.moe_dp_size, flags.moe_dp_size.value_or(s.moe_dp_size));
  if (!flags.ep_size && !flags.single_expert_mode) {
    EXPECT_EQ(s.ep_size, flags.enable_ep_moe ? tp_size : 1);
  }
  if (flags.single_expert_mode) {
    EXPECT_EQ(s.ep_size, *flags.single_expert_mode == "dp" ? s.world() : 1);
  }
}

TEST(StrategyProperty, RandomFlagsGiveAStrategyOrAnErrorThatNamesOne) {
  RandomDraw draw(1);
  int resolved = 0;
  for (int i = 0; i < random_cases(200000) && !testing::Test::HasFailure(); ++i) {
    const StrategyFlags flags = random_flags(draw);
    SCOPED_TRACE(described(flags));
    Strategy s;
    const std::string error =
        error_text([&] { s = resolve_strategy(flags, draw.chance(2) ? 1 : draw.between(-1, 300)); });
    if (!error.empty()) {
      EXPECT_TRUE(names_a_given_flag(error, flags)) << error;
      continue;
    }
    ++resolved;
    EXPECT_EQ(error_text([&] { check_sizes(s); }), "");
    EXPECT_EQ(s.ep_size * s.moe_tp_size * s.moe_dp_size, s.world());
    expect_keeps_flags(s, flags);
    EXPECT_EQ(parse_strategy(to_string(s)), s);
  }
  EXPECT_GT(resolved, random_cases(5000));
}

TEST(StrategyProperty, EveryEpSizeThatDividesTheWorldIsAccepted) {
  for (int tp = 1; tp <= 12; ++tp)
    for (int dp = 1; dp <= 12; ++dp)
      for (int ep = 1; ep <= tp * dp; ++ep) {
        const StrategyFlags flags{.tp_size = tp, .dp_size = dp, .ep_size = ep};
        EXPECT_EQ(error_text([&] { resolve_strategy(flags, 5); }).empty(), tp * dp % ep == 0)
            << described(flags);
      }
}

TEST(StrategyProperty, ParsingRandomTextNeverCrashes) {
  RandomDraw draw(2);
  const std::vector<std::string> parts = {"tp", "dp", "ep", "moe_", "=", "=", ",",
                                          "1",  "2",  "8",  "-",    "9", " ", "x"};
  for (int i = 0; i < random_cases(50000) && !testing::Test::HasFailure(); ++i) {
    std::string text;
    for (int n = draw.below(14); n > 0; --n)
      text += parts[static_cast<size_t>(draw.below(static_cast<int>(parts.size())))];
    const std::string error = error_text([&] { check_sizes(parse_strategy(text)); });
    if (!error.empty()) {
      EXPECT_NE(error.find("--strategy"), std::string::npos) << error;
    }
  }
}

// All sizes that the error lists as working do work.
void expect_listed_values_work(const std::string& error, const Strategy& s, const ShardedSizes& sizes) {
  const bool moe = error.find("--moe-tp-size is") == 0;
  const size_t list = error.rfind("work are ");
  ASSERT_NE(list, std::string::npos) << error;
  int count = 0;
  for (const int value : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    const std::string listed = ", " + error.substr(list + 9) + ",";
    const bool is_listed = listed.find(fmt::format(", {},", value)) != std::string::npos;
    Strategy other = moe ? Strategy{.dp_size = s.world(), .ep_size = s.world() / value, .moe_tp_size = value}
                         : Strategy{.tp_size = value, .ep_size = value};
    if (moe && s.world() % value != 0) continue;
    count += is_listed ? 1 : 0;
    EXPECT_EQ(error_text([&] { check_strategy(other, sizes); }).empty(), is_listed)
        << error << " : " << value;
  }
  EXPECT_GE(count, 1) << error;
}

TEST(StrategyProperty, CheckAgainstRandomModels) {
  RandomDraw draw(3);
  int accepted = 0;
  int listed = 0;
  for (int i = 0; i < random_cases(50000) && !testing::Test::HasFailure(); ++i) {
    ShardedSizes sizes{.vocab = draw.between(1, 1000),
                       .query_heads = draw.chance(20) ? draw.between(-2, 0) : draw.between(1, 70),
                       .kv_heads = draw.chance(20) ? draw.between(-2, 0) : draw.between(1, 16),
                       .intermediate = draw.chance(2) ? 0 : draw.between(-5, 500),
                       .expert_intermediate = draw.chance(5) ? 0 : draw.between(-5, 500)};
    Strategy s{.tp_size = draw.between(-1, 17), .dp_size = draw.one_of({1, 1, 2, 3, 64, INT_MAX})};
    if (s.tp_size >= 1 && s.dp_size < INT_MAX) s.moe_tp_size = draw.chance(2) ? s.world() : 1;
    if (s.moe_tp_size == 1)
      s.ep_size = draw.chance(9) ? INT_MAX : s.tp_size * (s.dp_size < INT_MAX ? s.dp_size : 1);
    const std::string error = error_text([&] { check_strategy(s, sizes); });
    if (error.empty()) {
      ++accepted;
      EXPECT_EQ(sizes.chunks(sizes.query_heads) % s.tp_size, 0);
      EXPECT_TRUE(sizes.kv_heads % s.tp_size == 0 || s.tp_size % sizes.kv_heads == 0);
      if (sizes.intermediate > 0) {
        EXPECT_EQ(sizes.chunks(sizes.intermediate) % s.tp_size, 0);
      }
      if (sizes.expert_intermediate > 0) {
        EXPECT_EQ(sizes.chunks(sizes.expert_intermediate) % s.moe_tp_size, 0);
      }
    } else {
      EXPECT_NE(error.find("-size"), std::string::npos) << error;
      if (error.find("work are") == std::string::npos || error.find("supported") != std::string::npos)
        continue;
      ++listed;
      ShardedSizes same = sizes;
      if (error.find("--tp-size makes") == 0) same.expert_intermediate = 0;
      expect_listed_values_work(error, s, same);
    }
  }
  EXPECT_GT(accepted, random_cases(1000));
  EXPECT_GT(listed, 1000);
}

}  // namespace
}  // namespace chorale::parallel
