// Decisions over made-up loads: no flapping, hysteresis, the budget of an hour; and a controller that makes
// one.
#include "engine/strategy_policy.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/strategy_controller.h"
#include "unit/engine/recorder.h"
#include "unit/engine/small_model.h"
#include "unit/parallel/example_machines.h"

namespace chorale::engine {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr double kHour = 3600;

StrategyPolicy policy_of(double hysteresis = 0.1, int budget = 6) {
  StrategyPolicy policy;
  policy.hysteresis = hysteresis;
  policy.max_switches_per_hour = budget;
  return policy;
}

// What two strategies take for a load from 0 to 1: equal in the middle, a quarter apart at the ends.
std::vector<double> two_strategies(double load) {
  return {1 + load / 3, 4.0 / 3 - load / 3};
}

struct Switched {
  double time = 0;
  size_t to = 0;
};

// Looks every 30 seconds, with the switches made at once.
std::vector<Switched> follow(const StrategyPolicy& policy, double duration,
                             const std::function<std::vector<double>(double)>& seconds_at) {
  std::vector<Switched> switches;
  PolicyState state;
  size_t current = 0;
  for (double now = 0; now < duration; now += policy.interval) {
    const std::vector<double> seconds = seconds_at(now);
    const PolicyDecision decision = decide(policy, seconds, current, now, state);
    state = decision.next;
    if (decision.outcome != PolicyOutcome::switching) continue;
    EXPECT_NE(decision.favourite, current);
    EXPECT_GE(decision.saving, policy.hysteresis);
    EXPECT_DOUBLE_EQ(decision.saving, 1 - seconds[decision.favourite] / seconds[current]);
    current = decision.favourite;
    switches.push_back({now, current});
  }
  return switches;
}

size_t most_in_an_hour(const std::vector<Switched>& switches) {
  size_t most = 0;
  for (size_t first = 0; first < switches.size(); ++first) {
    size_t last = first;
    while (last < switches.size() && switches[last].time < switches[first].time + kHour) ++last;
    most = std::max(most, last - first);
  }
  return most;
}

TEST(StrategyPolicy, ALoadThatRisesAndFallsSlowlySwitchesTwiceADay) {
  const auto switches = follow(policy_of(), 3 * 24 * kHour, [](double now) {
    return two_strategies(0.5 - 0.5 * std::cos(2 * std::numbers::pi * now / (24 * kHour)));
  });
  ASSERT_EQ(switches.size(), 6U);
  for (size_t i = 0; i < switches.size(); ++i) EXPECT_EQ(switches[i].to, i % 2 == 0 ? 1U : 0U);
  // Not where they are equal, but where the saving is as large as the hysteresis.
  const double load = 0.5 - 0.5 * std::cos(2 * std::numbers::pi * switches[0].time / (24 * kHour));
  EXPECT_GT(load, 0.5);
}

TEST(StrategyPolicy, ALoadThatTremblesAboutWhereTheyAreEqualChangesNothing) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> tremble(0.4, 0.6);  // a saving of 6% at most
  const auto switches =
      follow(policy_of(), 24 * kHour, [&](double) { return two_strategies(tremble(random)); });
  EXPECT_TRUE(switches.empty());
}

TEST(StrategyPolicy, ALoadThatChangesFromLookToLookChangesNothing) {
  for (const int period : {1, 2}) {  // looks, of the three that a switch takes
    int look = 0;
    const auto switches = follow(policy_of(), 24 * kHour,
                                 [&](double) { return two_strategies(look++ / period % 2 == 0 ? 1 : 0); });
    EXPECT_TRUE(switches.empty()) << period;
  }
}

TEST(StrategyPolicy, NoHourHasMoreSwitchesThanItsBudget) {
  for (const int budget : {0, 1, 2, 6, 20}) {
    int look = 0;
    const auto switches = follow(policy_of(0.1, budget), 24 * kHour,
                                 [&](double) { return two_strategies(look++ / 5 % 2 == 0 ? 1 : 0); });
    EXPECT_EQ(most_in_an_hour(switches), static_cast<size_t>(budget));
    EXPECT_GE(switches.size(), static_cast<size_t>(budget) * 23);
  }
}

TEST(StrategyPolicy, WhatSavesLessThanTheHysteresisIsLeft) {
  for (const double hysteresis : {0.0, 0.05, 0.2}) {
    for (const double saving : {0.01, 0.06, 0.3}) {
      const auto switches = follow(policy_of(hysteresis), kHour, [&](double) {
        return std::vector<double>{1, 1 - saving, 1};
      });
      EXPECT_EQ(switches.size(), saving >= hysteresis ? 1U : 0U) << hysteresis << " " << saving;
    }
  }
}

TEST(StrategyPolicy, OfSeveralThatAreAboutAsGoodOneIsTaken) {
  int look = 0;
  const auto switches = follow(policy_of(), kHour, [&](double) {
    const bool even = look++ % 2 == 0;
    return std::vector<double>{1, even ? 0.50 : 0.51, even ? 0.51 : 0.50};
  });
  ASSERT_EQ(switches.size(), 1U);
  EXPECT_EQ(switches[0].to, 1U);
}

TEST(StrategyPolicy, EachOutcomeHasItsTime) {
  const StrategyPolicy policy = policy_of(0.1, 1);
  const std::vector<double> worse = {1, 2}, little = {1, 0.95}, better = {1, 0.5}, refused = {1, kInfinite};
  PolicyState state;
  double now = 0;
  const auto outcome = [&](const std::vector<double>& seconds) {
    const PolicyDecision decision = decide(policy, seconds, 0, now, state);
    state = decision.next;
    now += policy.interval;
    return decision.outcome;
  };
  EXPECT_EQ(outcome({}), PolicyOutcome::idle);
  EXPECT_EQ(outcome(worse), PolicyOutcome::best);
  EXPECT_EQ(outcome({1, 1}), PolicyOutcome::best);
  EXPECT_EQ(outcome(refused), PolicyOutcome::best);
  EXPECT_EQ(outcome(little), PolicyOutcome::small_gain);
  EXPECT_EQ(outcome(better), PolicyOutcome::unconfirmed);
  EXPECT_EQ(outcome(better), PolicyOutcome::unconfirmed);
  EXPECT_EQ(outcome({}), PolicyOutcome::idle);  // which begins anew
  EXPECT_EQ(outcome(better), PolicyOutcome::unconfirmed);
  EXPECT_EQ(outcome(better), PolicyOutcome::unconfirmed);
  EXPECT_EQ(outcome(better), PolicyOutcome::switching);
  for (int i = 0; i < kLooksBeforeSwitch - 1; ++i) EXPECT_EQ(outcome(better), PolicyOutcome::unconfirmed);
  EXPECT_EQ(outcome(better), PolicyOutcome::over_budget);
  now += kHour;
  EXPECT_EQ(outcome(better), PolicyOutcome::switching) << "it was confirmed before";
}

TEST(StrategyPolicy, AWindowTellsWhatHappenedInIt) {
  EngineStats stats;
  stats.prompt_tokens = 5000;
  stats.generated_tokens = 700;
  LoadWindow window;
  EXPECT_TRUE(window.take().is_idle());
  window.add(stats);
  EXPECT_TRUE(window.take().is_idle()) << "nothing was computed in it";
  stats.running = 4;
  stats.kv_tokens_used = 400;
  window.add(stats);
  stats.running = 8;
  stats.waiting = 2;
  stats.kv_tokens_used = 1400;
  stats.prompt_tokens += 400;
  stats.cached_tokens += 100;
  stats.generated_tokens += 100;
  for (int i = 0; i < 3; ++i) stats.queue_seconds.observe(0.1);
  window.add(stats);
  const LoadSample sample = window.take();
  EXPECT_EQ(sample.running, 6);
  EXPECT_EQ(sample.waiting, 1);
  EXPECT_EQ(sample.context, 150);
  EXPECT_EQ(sample.computed_tokens, 400);
  EXPECT_EQ(sample.prefill_share, 0.75);
  EXPECT_EQ(sample.prompt_length, 100);
  EXPECT_FALSE(sample.is_idle());
  EXPECT_TRUE(window.take().is_idle());
}

TEST(StrategyPolicy, TheShareOfAnExpertIsOverAllLayers) {
  const std::vector<int64_t> before = {1, 1, 1, 1}, after = {3, 1, 2, 4};
  EXPECT_EQ(expert_share(before, after, 2), (std::vector<double>{3, 3}));
  EXPECT_TRUE(expert_share(after, after, 2).empty());
  EXPECT_TRUE(expert_share({}, after, 2).empty());
  EXPECT_TRUE(expert_share(before, after, 3).empty());
}

// Memory so slow that ranks which share a matrix pay, and links so narrow that with many tokens they do not.
parallel::MachineProfile slow_machine() {
  parallel::MachineProfile slow = parallel::example_gpus();
  slow.read_bandwidth = {{{1e9, 1e12}}, "round"};
  slow.within = parallel::example_collectives(1e-6, 20e9);
  return slow;
}

StrategyModel example(const std::string& text, const parallel::MachineProfile& machine = slow_machine(),
                      const parallel::ModelShape& model = parallel::example_large_model()) {
  const parallel::Strategy strategy = parallel::parse_strategy(text);
  return {.cost = parallel::example_cost(machine, model, strategy),
          .prompt_tokens_per_step = 512,
          .running_requests = 256 / strategy.dp_size,
          .kv_tokens = 200000 / strategy.dp_size};
}

LoadSample decoding(double running) {
  LoadSample load;
  load.running = running;
  load.computed_tokens = 1000;
  load.context = 500;
  return load;
}

TEST(StrategyPolicy, ALoneRequestIsForTensorParallelRanksAndManyAreForDataParallelOnes) {
  StrategyModel tp = example("tp=4"), dp = example("dp=4,ep=4");
  for (const Objective objective : {Objective::throughput, Objective::itl}) {
    EXPECT_LT(predicted_seconds(tp, decoding(1), objective), predicted_seconds(dp, decoding(1), objective));
    EXPECT_GT(predicted_seconds(tp, decoding(200), objective),
              predicted_seconds(dp, decoding(200), objective));
  }
}

TEST(StrategyPolicy, DecodingAloneIsAStepOfTheCostModel) {
  StrategyModel dp = example("dp=4,ep=4");
  const double step = dp.cost.step(parallel::decode_load(4, 8, 499)).total();
  EXPECT_EQ(predicted_seconds(dp, decoding(32), Objective::itl), step);
  EXPECT_EQ(predicted_seconds(dp, decoding(32), Objective::throughput), step / 32);
  LoadSample prompts = decoding(32);
  prompts.prefill_share = 0.9;
  prompts.prompt_length = 512;
  EXPECT_GT(predicted_seconds(dp, prompts, Objective::itl), step) << "most steps have a prompt";
  EXPECT_LT(predicted_seconds(dp, prompts, Objective::throughput), step / 32) << "prompts count, too";
  prompts.prefill_share = 1;
  EXPECT_GT(predicted_seconds(dp, prompts, Objective::throughput), 0);
  const double alone = predicted_seconds(dp, prompts, Objective::ttft);
  prompts.waiting = 16;
  EXPECT_GT(predicted_seconds(dp, prompts, Objective::ttft), 2 * alone);
}

TEST(StrategyPolicy, WhatTheCacheHasNoRoomForWaits) {
  StrategyModel roomy = example("dp=2,ep=2"), narrow = example("dp=2,ep=2");
  narrow.kv_tokens = 2000;  // four sequences of each group
  EXPECT_EQ(predicted_seconds(roomy, decoding(8), Objective::throughput),
            predicted_seconds(narrow, decoding(8), Objective::throughput));
  EXPECT_LT(predicted_seconds(roomy, decoding(64), Objective::throughput),
            predicted_seconds(narrow, decoding(64), Objective::throughput));
}

// Where arithmetic takes the time, as with long prompts on a CPU.
TEST(StrategyPolicy, ALoadOfFewExpertsIsDearWhereRanksOwnThem) {
  const parallel::MachineProfile cpu = parallel::example_cpu(4);
  StrategyModel tp = example("tp=4", cpu, parallel::example_model());
  StrategyModel ep = example("tp=4,ep=4", cpu, parallel::example_model());
  LoadSample load = decoding(4);
  load.prefill_share = 0.9;
  load.prompt_length = 512;
  const double tp_even = predicted_seconds(tp, load, Objective::throughput);
  const double ep_even = predicted_seconds(ep, load, Objective::throughput);
  load.expert_share.assign(16, 1.0);
  EXPECT_EQ(predicted_seconds(ep, load, Objective::throughput), ep_even);
  load.expert_share.assign(16, 0.0);
  std::fill_n(load.expert_share.begin(), 4, 1.0);  // the first rank's
  EXPECT_GT(predicted_seconds(ep, load, Objective::throughput), 1.2 * ep_even);
  EXPECT_EQ(predicted_seconds(tp, load, Objective::throughput), tp_even);
}

// ---- the controller ----

TEST(StrategyController, FollowsTheLoadAndNoAnswerDiffers) {
  Recorder recorder;  // outlives the engine, which tells it of all that it ends
  LoadOptions load = small_model("tp=1");
  LoadedModel model = LoadedModel::load(load);
  Engine engine(model.runner(), engine_options_of(model, load));
  StrategySwitch strategy_switch(model, engine);
  StrategyPolicy policy;
  policy.strategies = {parallel::parse_strategy("tp=1"), parallel::parse_strategy("tp=2"),
                       parallel::parse_strategy("tp=3")};
  policy.interval = 0.01;
  policy.max_switches_per_hour = 2;
  // The third, which the model has not, is said to be by far the fastest; it is refused, and then left alone.
  std::vector<StrategyModel> models;
  const char* const kSpeeds[] = {"tp=1", "tp=2", "tp=4"};
  for (const char* like : kSpeeds) models.push_back(example(like));
  GenerationRequest request;
  request.id = "long";
  request.prompt_ids = {1, 2, 3};
  request.sampling.max_new_tokens = 300;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  std::vector<int32_t> expected;
  {
    ASSERT_FALSE(engine.submit(request, recorder.listener("long")).has_value());
    expected = recorder.wait("long").answer.tokens;
    ASSERT_TRUE(engine.wait_idle(60));
  }
  StrategyController controller(engine, strategy_switch, policy, models, 0);
  const std::string goal = parallel::to_string(policy.strategies[1]);
  for (int i = 0; i < 200 && strategy_switch.current() != goal; ++i) {
    request.id = fmt::format("{}", i);
    ASSERT_FALSE(engine.submit(request, recorder.listener(request.id)).has_value());
    ASSERT_EQ(recorder.wait(request.id).answer.tokens, expected);
  }
  EXPECT_EQ(strategy_switch.current(), goal);
  for (int i = 0; i < 1000 && controller.report().switches_left > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const PolicyReport report = controller.report();
  EXPECT_EQ(report.failed_switches, 1U);
  EXPECT_EQ(report.switches_left, 0);
  EXPECT_EQ(report.decisions[static_cast<size_t>(PolicyOutcome::switching)], 2U);
  EXPECT_EQ(engine.stats().switches, 1U);
}

TEST(StrategyController, LeavesWhatAnAdministratorHasChosen) {
  Recorder recorder;  // outlives the engine, which tells it of all that it ends
  LoadOptions load = small_model("dp=2");
  LoadedModel model = LoadedModel::load(load);
  Engine engine(model.runner(), engine_options_of(model, load));
  StrategySwitch strategy_switch(model, engine);
  StrategyPolicy policy;
  policy.strategies = {parallel::parse_strategy("tp=1"), parallel::parse_strategy("tp=2")};
  policy.interval = 0.002;
  std::vector<StrategyModel> models;
  models.push_back(example("tp=1"));
  models.push_back(example("tp=2"));
  const StrategyController controller(engine, strategy_switch, policy, std::move(models), 0);
  GenerationRequest request;
  request.id = "r";
  request.prompt_ids = {1, 2, 3};
  request.sampling.max_new_tokens = 400;
  request.sampling.ignore_eos = true;
  ASSERT_FALSE(engine.submit(request, recorder.listener("r")).has_value());
  recorder.wait("r");
  EXPECT_EQ(controller.report().decisions, (std::array<uint64_t, kNumPolicyOutcomes>{}));
  EXPECT_EQ(engine.stats().switches, 0U);
}

}  // namespace
}  // namespace chorale::engine
