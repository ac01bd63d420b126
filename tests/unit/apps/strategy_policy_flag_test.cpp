#include "apps/strategy_policy_flag.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "io/model_config.h"
#include "model/weights.h"
#include "parallel/strategy.h"
#include "source_dir.h"
#include "unit/parallel/example_machines.h"
#include "unit/temporary_folder.h"

namespace chorale::apps {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string error_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

engine::StrategyPolicy read(const std::string& text) {
  TemporaryFolder folder;
  folder.write("policy.yaml", text);
  return read_strategy_policy((folder / "policy.yaml").string());
}

std::vector<std::string> names_of(const engine::StrategyPolicy& policy) {
  std::vector<std::string> names;
  for (const parallel::Strategy& strategy : policy.strategies) names.push_back(to_string(strategy));
  return names;
}

TEST(StrategyPolicyFlag, ReadsYamlAndJson) {
  const char* const kYaml =
      "# by day\n"
      "objective: itl\n"
      "strategies:\n"
      "  - tp=4\n"
      "  - dp=4,ep=4\n"
      "interval: 2.5\n"
      "hysteresis: 0.2\n"
      "max_switches_per_hour: 0\n";
  const char* const kJson =
      R"({"objective": "itl", "strategies": ["tp=4", "dp=4,ep=4"], "interval": 2.5, "hysteresis": 0.2,
          "max-switches-per-hour": 0})";
  for (const char* text : {kYaml, kJson}) {
    const engine::StrategyPolicy policy = read(text);
    EXPECT_EQ(policy.objective, engine::Objective::itl);
    EXPECT_EQ(names_of(policy), (std::vector<std::string>{"tp=4,dp=1,ep=1,moe_tp=4,moe_dp=1",
                                                          "tp=1,dp=4,ep=4,moe_tp=1,moe_dp=1"}));
    EXPECT_EQ(policy.interval, 2.5);
    EXPECT_EQ(policy.hysteresis, 0.2);
    EXPECT_EQ(policy.max_switches_per_hour, 0);
  }
  EXPECT_TRUE(read("").strategies.empty());
  EXPECT_TRUE(read_strategy_policy("auto").strategies.empty());
}

TEST(StrategyPolicyFlag, SaysWhichLineIsWrong) {
  const std::vector<std::pair<std::string, std::string>> kWrong = {
      {"\nobjective: memory", "line 2: objective: expected throughput, ttft or itl, found \"memory\""},
      {"interval: 0", "line 1: interval: expected a number from 0.1 to 86400, found \"0\""},
      {"interval: nan", "interval: expected a number"},
      {"interval: 3s", "found \"3s\""},
      {"interval: [3]", "interval: expected a number"},
      {"hysteresis: 1", "hysteresis: expected a number from 0 to 0.99"},
      {"max_switches_per_hour: -1", "max-switches-per-hour: expected a number from 0 to 3600"},
      {"strategies: [tp=4]", "two strategies or more"},
      {"strategies: [tp=4, tp=4]", "each strategy once"},
      {"strategies: [tp=4, sideways]", "\"sideways\""},
      {"switches: 3", "unknown key \"switches\"; those that work are objective, strategies"},
      {"objective: {a: 1}", "keys in another key's value"},
  };
  for (const auto& wrong : kWrong) {
    EXPECT_THAT(error_of([&] { read(wrong.first); }),
                AllOf(StartsWith("--strategy-policy"), HasSubstr(wrong.second)))
        << wrong.first;
  }
  EXPECT_THAT(error_of([] { read_strategy_policy("/nowhere/policy.yaml"); }),
              HasSubstr("/nowhere/policy.yaml"));
}

class PlannedPolicyTest : public ::testing::Test {
 protected:
  PlannedPolicyTest() : config(io::load_model_config(source_dir() / "models/tales-moe")) {
    log::set_level(log::Level::error);
    flag.profile = parallel::example_cpu(4);
    load.device = "cpu";
    load.max_total_tokens = 4096;
    load.parallel.communicator = "local";
  }
  std::optional<PlannedPolicy> plan(const std::string& text) {
    if (text.empty() || text == "auto") return plan_strategy_policy(text, flag, load, config);
    folder.write("policy.yaml", text);
    return plan_strategy_policy((folder / "policy.yaml").string(), flag, load, config);
  }
  std::string refusal(const std::string& text) {
    return error_of([&] { plan(text); });
  }

  const io::ModelConfig config;
  StrategyFlag flag;
  engine::LoadOptions load;
  TemporaryFolder folder;
};

TEST_F(PlannedPolicyTest, AutoHasTheFirstStrategyAndAllOfPowersOfTwo) {
  EXPECT_FALSE(plan("").has_value());
  load.parallel.strategy.tp_size = 1;
  load.parallel.strategy.dp_size = 3;
  load.parallel.strategy.ep_size = 3;
  const PlannedPolicy planned = *plan("auto");
  ASSERT_EQ(planned.models.size(), planned.policy.strategies.size());
  std::vector<std::string> expected = {"tp=1,dp=3,ep=3,moe_tp=1,moe_dp=1"};
  for (const int world : {1, 2, 4}) {
    for (const parallel::Strategy& strategy : parallel::all_strategies(world, model::sharded_sizes(config)))
      expected.push_back(to_string(strategy));
  }
  EXPECT_EQ(names_of(planned.policy), expected);
  for (size_t i = 0; i < planned.models.size(); ++i)
    EXPECT_EQ(planned.models[i].cost.strategy(), planned.policy.strategies[i]);
}

TEST_F(PlannedPolicyTest, ProcessesStayAsManyAsTheyAre) {
  load.parallel.communicator = "mpi";
  load.parallel.strategy.tp_size = 2;
  flag.ranks = 4;  // which processes do not become
  std::vector<std::string> expected = {"tp=2,dp=1,ep=1,moe_tp=2,moe_dp=1"};
  for (const parallel::Strategy& strategy : parallel::all_strategies(2, model::sharded_sizes(config))) {
    if (to_string(strategy) != expected.front()) expected.push_back(to_string(strategy));
  }
  EXPECT_EQ(names_of(plan("auto")->policy), expected);
  EXPECT_EQ(plan(R"(strategies: ["tp=2", "dp=2,ep=2"])")->models.size(), 2U);
  EXPECT_THAT(refusal("strategies: [tp=2, tp=4]"),
              HasSubstr("over MPI expected strategies of 2 ranks, as the first has, found "
                        "tp=4,dp=1,ep=1,moe_tp=4,moe_dp=1 of 4"));
  flag.profile.reset();
  EXPECT_THAT(refusal("auto"), HasSubstr("--machine is needed"));
}

TEST_F(PlannedPolicyTest, RefusesWhatCannotBe) {
  load.parallel.strategy.tp_size = 2;
  const std::string two = "strategies: [tp=1, tp=2]";
  EXPECT_EQ(plan(two)->models.size(), 2U);
  EXPECT_THAT(refusal("strategies: [tp=1, tp=4]"), HasSubstr("begins with tp=2,dp=1,ep=1,moe_tp=2,moe_dp=1"));
  EXPECT_THAT(refusal("strategies: [tp=2, tp=3]"),
              HasSubstr("tp=3,dp=1,ep=1,moe_tp=3,moe_dp=1 cannot serve"));
  flag.ranks = 1;
  load.parallel.strategy.tp_size = 1;
  EXPECT_THAT(refusal("auto"), HasSubstr("no other strategy"));
}

}  // namespace
}  // namespace chorale::apps
