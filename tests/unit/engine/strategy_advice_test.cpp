#include "engine/strategy_advice.h"

#include <numeric>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/loaded_model.h"
#include "engine/memory_plan.h"
#include "unit/engine/small_config.h"
#include "unit/parallel/example_machines.h"

namespace chorale::engine {
namespace {

AdviceRequest request_of(int ranks) {
  AdviceRequest request;
  request.config = small_config();
  request.load.device = "cpu";
  request.load.max_running_requests = 16;
  request.load.context_length = 512;
  request.ranks = ranks;
  request.machine = parallel::example_cpu();
  request.workload = {.requests = 16, .prompt_tokens = 64, .new_tokens = 16};
  return request;
}

std::string error_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(StrategyAdvice, HasEveryStrategyOnceAndTheBestFirst) {
  const AdviceRequest request = request_of(8);
  const Advice advice = advise(request);
  std::multiset<std::string> expected, found;
  for (const parallel::Strategy& strategy : parallel::all_strategies(8, model::sharded_sizes(request.config)))
    expected.insert(to_string(strategy));
  double last = 1e300;
  for (const RankedStrategy& ranked : advice.ranked) {
    found.insert(to_string(ranked.strategy));
    ASSERT_TRUE(ranked.predicted) << ranked.refused;
    EXPECT_LE(ranked.predicted->output_rate, last);
    last = ranked.predicted->output_rate;
    EXPECT_NEAR(ranked.predicted->parts.total(), ranked.predicted->seconds, 1e-9 * ranked.predicted->seconds);
  }
  EXPECT_EQ(found, expected);
  EXPECT_NE(advice.reason.find(to_string(advice.ranked.front().strategy)), std::string::npos)
      << advice.reason;
  for (const Alternative& alternative : advice.alternatives)
    EXPECT_NE(alternative.first, advice.ranked.front().strategy) << alternative.change;
}

TEST(StrategyAdvice, IsTheSameEveryTime) {
  const Advice one = advise(request_of(4)), two = advise(request_of(4));
  EXPECT_EQ(one.reason, two.reason);
  ASSERT_EQ(one.ranked.size(), two.ranked.size());
  for (size_t i = 0; i < one.ranked.size(); ++i) {
    EXPECT_EQ(one.ranked[i].strategy, two.ranked[i].strategy);
    EXPECT_EQ(one.ranked[i].predicted, two.ranked[i].predicted);
  }
  ASSERT_EQ(one.alternatives.size(), two.alternatives.size());
}

TEST(StrategyAdvice, BytesAreThoseOfTheMemoryPlan) {
  const AdviceRequest request = request_of(4);
  for (const RankedStrategy& ranked : advise(request).ranked) {
    LoadOptions load = request.load;
    load.parallel.strategy = {.tp_size = ranked.strategy.tp_size,
                              .dp_size = ranked.strategy.dp_size,
                              .ep_size = ranked.strategy.ep_size,
                              .moe_tp_size = ranked.strategy.moe_tp_size,
                              .moe_dp_size = ranked.strategy.moe_dp_size};
    const model::StepLimits limits = choose_limits(request.config, load, ranked.strategy.dp_size);
    const ParallelPlan parallel = plan_parallel(request.config, load.parallel, limits, {0, 0, 0, 0});
    std::vector<int> here(4);
    std::iota(here.begin(), here.end(), 0);
    const MemoryPlan memory =
        plan_memory(request.config, DType::bf16, load, parallel, here, request.machine.memory);
    EXPECT_EQ(ranked.process_bytes, memory.weights + memory.kv_cache + memory.activations);
    EXPECT_EQ(ranked.kv_tokens, memory.kv_tokens);
  }
}

TEST(StrategyAdvice, OrdersByTheObjective) {
  AdviceRequest request = request_of(4);
  const auto first = [&](Objective objective) {
    request.objective = objective;
    const Advice advice = advise(request);
    for (const RankedStrategy& ranked : advice.ranked) {
      const RankedStrategy& best = advice.ranked.front();
      const auto score = [&](const RankedStrategy& r) {
        if (objective == Objective::memory) return static_cast<double>(r.process_bytes);
        return objective == Objective::itl ? r.predicted->between_median : r.predicted->first_token_median;
      };
      EXPECT_LE(score(best), score(ranked));
    }
  };
  for (const Objective objective : {Objective::memory, Objective::itl, Objective::ttft}) first(objective);
}

TEST(StrategyAdvice, WhatCannotServeComesLastWithItsReason) {
  AdviceRequest request = request_of(4);
  request.machine.memory = 1 << 20;
  const Advice none = advise(request);
  for (const RankedStrategy& ranked : none.ranked) EXPECT_NE(ranked.refused, "");
  EXPECT_NE(none.reason.find("no strategy can serve"), std::string::npos);
  EXPECT_NE(error_of([&] { predict_strategy(request, {.tp_size = 4, .moe_tp_size = 4}); }), "");
  request.config.num_attention_heads = 6;
  request.config.num_key_value_heads = 3;
  request.ranks = 1024;
  request.config.num_experts = 0;
  EXPECT_NO_THROW(advise(request_of(1)));
}

TEST(StrategyAdvice, ServiceLevelsComeBeforeTheObjective) {
  AdviceRequest request = request_of(4);
  const Advice free = advise(request);
  double least = 1e300;
  for (const RankedStrategy& ranked : free.ranked)
    least = std::min(least, ranked.predicted->first_token_median);
  request.service_level.first_token = least * 1.0001;
  const Advice bound = advise(request);
  EXPECT_TRUE(bound.ranked.front().meets_service_level);
  EXPECT_FALSE(bound.ranked.back().meets_service_level);
}

TEST(StrategyAdvice, FlagsAreRead) {
  EXPECT_EQ(parse_service_level("ttft=2s,itl=50ms").first_token, 2);
  EXPECT_EQ(parse_service_level("ttft=2s,itl=50ms").between, 0.05);
  for (const char* text : {"", "ttft", "ttft=", "ttft=2", "ttft=2m", "ttft=-1s", "ttft=nans", "e2e=1s",
                           "itl=1s,itl=2s", "ttft=1s,"})
    EXPECT_NE(error_of([&] { parse_service_level(text); }).find("--slo"), std::string::npos) << text;
  EXPECT_EQ(parse_objective("itl", "--objective"), Objective::itl);
  EXPECT_NE(error_of([&] { parse_objective("speed", "--objective"); }).find("--objective"),
            std::string::npos);
}

}  // namespace
}  // namespace chorale::engine
