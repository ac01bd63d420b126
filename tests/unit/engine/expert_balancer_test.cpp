// Experts that move while requests run: no answer differs, and the load is balanced within some steps.
#include "engine/expert_balancer.h"

#include <algorithm>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "unit/engine/mixed_requests.h"
#include "unit/engine/recorder.h"
#include "unit/engine/small_model.h"

namespace chorale::engine {
namespace {

using Answers = std::map<std::string, Answer>;

Answers run_all(ModelRunner& runner, const EngineOptions& options,
                const std::vector<GenerationRequest>& requests, EngineStats* stats = nullptr) {
  Recorder recorder;
  Engine engine(runner, options);
  for (const GenerationRequest& r : requests) {
    EXPECT_FALSE(engine.submit(r, recorder.listener(r.id)).has_value());
  }
  Answers answers;
  for (const GenerationRequest& r : requests) answers[r.id] = recorder.wait(r.id).answer;
  EXPECT_TRUE(engine.wait_idle(60));
  if (stats != nullptr) *stats = engine.stats();
  return answers;
}

void expect_all_same(const Answers& actual, const Answers& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [id, answer] : expected) expect_same(actual.at(id), answer, what + ", " + id);
}

// Places the experts of every layer anew before each step.
class RestlessRunner : public ModelRunner {
 public:
  explicit RestlessRunner(ModelRunner& inner) : inner_(inner), placement_(*inner.movable_experts()) {}

  int64_t vocab_size() const override { return inner_.vocab_size(); }
  int64_t block_tokens() const override { return inner_.block_tokens(); }
  int64_t num_dp_groups() const override { return inner_.num_dp_groups(); }
  int64_t num_spare_blocks() const override { return inner_.num_spare_blocks(); }
  bool runs_ahead() const override { return inner_.runs_ahead(); }
  void synchronize() override { inner_.synchronize(); }
  void start_sampling(std::span<const SamplePlan* const> plans) override { inner_.start_sampling(plans); }
  void collect(std::span<SampledStep> sampled) override { inner_.collect(sampled); }
  std::span<const float> logits() override { return inner_.logits(); }

  void forward(std::span<const StepPlan* const> plans) override {
    for (int l = 0; l < placement_.num_layers(); ++l) {
      EXPECT_EQ(inner_.place_experts(l, random_placement()), 0U);
    }
    inner_.forward(plans);
  }

 private:
  parallel::ExpertPlacement random_placement() {
    std::vector<std::vector<int>> map;
    for (int l = 0; l < placement_.num_layers(); ++l) {
      std::vector<int>& slots = map.emplace_back();
      for (int s = 0; s < placement_.num_slots(); ++s) {
        slots.push_back(s < placement_.num_experts()
                            ? s
                            : static_cast<int>(random_() % static_cast<uint64_t>(placement_.num_experts())));
      }
      std::ranges::shuffle(slots, random_);
    }
    return parallel::ExpertPlacement::from_map(placement_.shape(), map);
  }

  ModelRunner& inner_;
  const parallel::ExpertPlacement placement_;
  std::mt19937_64 random_{5};
};

struct MovingCase {
  const char* name;
  const char* strategy;
  int num_redundant;
  const char* dispatch;
  const char* device;
};
class MovingExperts : public testing::TestWithParam<MovingCase> {};
INSTANTIATE_TEST_SUITE_P(Strategies, MovingExperts,
                         testing::Values(MovingCase{"split", "tp=2,dp=2,ep=2,moe_tp=2", 0, "static", "cpu"},
                                         MovingCase{"replicas", "tp=1,dp=4,ep=4", 8, "dynamic", "cpu"},
                                         MovingCase{"device", "tp=2,dp=1,ep=2", 4, "dynamic", "ref"}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(MovingExperts, ChangeNoAnswerHoweverOftenTheyMove) {
  const MovingCase& c = GetParam();
  const std::vector<GenerationRequest> requests = mixed_requests(std::string(c.device) == "ref" ? 3 : 12, 42);
  LoadOptions simple = small_model("tp=1", c.device);
  LoadedModel one = LoadedModel::load(simple);
  const Answers expected = run_all(one.runner(), engine_options_of(one, simple), requests);

  LoadOptions load = small_model(c.strategy, c.device);
  load.parallel.num_redundant_experts = c.num_redundant;
  load.parallel.dispatch_algorithm = c.dispatch;
  load.parallel.enable_eplb = true;
  LoadedModel model = LoadedModel::load(load);
  EngineOptions options = engine_options_of(model, load);
  RestlessRunner restless(model.runner());
  expect_all_same(run_all(restless, options, requests), expected, "experts move before every step");

  options.eplb = {.enabled = true, .interval = 1, .min_balancedness = 1};
  EngineStats stats;
  expect_all_same(run_all(model.runner(), options, requests, &stats), expected, "rebalanced at every step");
  ASSERT_NE(stats.experts, nullptr);
  EXPECT_GT(stats.experts->moves.layers, 0U);
  EXPECT_EQ(stats.experts->moves.bytes, 0U);
}

// All tokens of a prompt are the same, and so are the experts that they are routed to.
GenerationRequest skewed_request(int64_t i, int32_t token) {
  GenerationRequest r;
  r.id = fmt::format("s{}", i);
  r.prompt_ids.assign(40, token);
  r.sampling.max_new_tokens = 1;
  r.sampling.temperature = 0;
  r.sampling.ignore_eos = true;
  return r;
}

void run_skewed(Engine& engine, Recorder& recorder, int64_t count, int32_t token) {
  for (int64_t i = 0; i < count; ++i) {
    const GenerationRequest request = skewed_request(i, token);
    EXPECT_FALSE(engine.submit(request, recorder.listener(request.id)).has_value());
  }
  for (int64_t i = 0; i < count; ++i) recorder.wait(skewed_request(i, token).id);
  EXPECT_TRUE(engine.wait_idle(60));
}

// The one of some tokens whose experts lie together most.
int32_t most_skewed_token(LoadedModel& model, const EngineOptions& options) {
  const parallel::ExpertPlacement& placement = *model.runner().movable_experts();
  Recorder recorder;
  Engine engine(model.runner(), options);
  const auto load_of = [&](int32_t token) {
    run_skewed(engine, recorder, 1, token);
    const auto told = std::make_shared<std::promise<std::vector<int64_t>>>();
    engine.get_expert_load([told](std::vector<int64_t> counts) { told->set_value(std::move(counts)); });
    return told->get_future().get();
  };
  std::vector<int64_t> before = load_of(10);
  std::pair<double, int32_t> best;
  for (int32_t token = 11; token < 31; ++token) {
    const std::vector<int64_t> after = load_of(token);
    for (int l = 0; l < placement.num_layers(); ++l) {
      std::vector<double> load;
      for (int e = 0; e < placement.num_experts(); ++e) {
        const auto at = static_cast<size_t>(l * placement.num_experts() + e);
        load.push_back(static_cast<double>(after[at] - before[at]));
      }
      best = std::max(best, {placement.imbalance(l, load), token});
    }
    before = after;
  }
  return best.second;
}

double worst_balance(const ExpertReport& report) {
  double worst = 1;
  for (int l = 0; l < report.placement.num_layers(); ++l) {
    worst = std::max(worst, report.placement.imbalance(l, report.load[static_cast<size_t>(l)]));
  }
  return worst;
}

TEST(ExpertBalancer, SkewedLoadIsBalancedWithinTwoHundredSteps) {
  LoadOptions load = small_model("dp=8,ep=8");
  load.parallel.num_redundant_experts = 16;
  load.parallel.enable_eplb = true;
  LoadedModel model = LoadedModel::load(load);
  EngineOptions options = engine_options_of(model, load);
  options.enable_prefix_cache = false;
  const int32_t token = most_skewed_token(model, options);
  options.eplb = {.enabled = true, .interval = 4, .min_balancedness = 0.8};
  Recorder recorder;
  Engine engine(model.runner(), options);
  EngineStats stats;
  do {
    run_skewed(engine, recorder, 8, token);
    stats = engine.stats();
  } while (stats.steps < 200 &&
           (stats.experts->moves.rebalances == 0 || worst_balance(*stats.experts) > 1.3));
  ASSERT_GE(stats.experts->moves.rebalances, 1U);
  EXPECT_GT(*std::ranges::max_element(stats.experts->last.before), 2.0);
  EXPECT_LT(worst_balance(*stats.experts), 1.3);
  EXPECT_GT(stats.experts->moves.slots, 0U);
  EXPECT_EQ(stats.experts->moves.bytes, 0U);
}

// Without --enable-eplb experts stay where they are until somebody asks.
TEST(ExpertBalancer, MovesWhenAskedThoughNothingRuns) {
  const LoadOptions load = small_model("dp=4,ep=4");
  LoadedModel model = LoadedModel::load(load);
  Recorder recorder;
  Engine engine(model.runner(), engine_options_of(model, load));
  EXPECT_NE(engine.stats().experts, nullptr);  // from the beginning
  const auto ask = [&] {
    const auto told = std::make_shared<std::promise<RebalanceResult>>();
    engine.rebalance_experts([told](const RebalanceResult* result) { told->set_value(*result); });
    return told->get_future().get();
  };
  EXPECT_EQ(ask().moves.layers, 0U);  // no load yet
  run_skewed(engine, recorder, 4, 11);
  EXPECT_EQ(engine.stats().experts->moves.layers, 0U);
  const RebalanceResult moved = ask();
  EXPECT_GT(moved.moves.layers, 0U);
  for (size_t l = 0; l < moved.before.size(); ++l) EXPECT_LE(moved.after[l], moved.before[l]);
  EXPECT_LT(std::accumulate(moved.after.begin(), moved.after.end(), 0.0),
            std::accumulate(moved.before.begin(), moved.before.end(), 0.0));
  EXPECT_EQ(engine.stats().experts->moves.rebalances, 1U);
}

// As ranks whose weights must come from somewhere: they are there when it was asked for three times, or
// cannot be had from some layer on.
class SlowToPrepare : public ModelRunner {
 public:
  SlowToPrepare(ModelRunner& inner, bool has_weights) : inner_(inner), has_weights_(has_weights) {}

  int64_t vocab_size() const override { return inner_.vocab_size(); }
  int64_t block_tokens() const override { return inner_.block_tokens(); }
  int64_t num_dp_groups() const override { return inner_.num_dp_groups(); }
  void forward(std::span<const StepPlan* const> plans) override { inner_.forward(plans); }
  void start_sampling(std::span<const SamplePlan* const> plans) override { inner_.start_sampling(plans); }
  void collect(std::span<SampledStep> sampled) override { inner_.collect(sampled); }
  std::span<const float> logits() override { return inner_.logits(); }
  std::vector<int64_t> expert_load() override { return inner_.expert_load(); }
  const parallel::ExpertPlacement* movable_experts() const override { return inner_.movable_experts(); }

  bool prepare_experts(int /*layer*/, const parallel::ExpertPlacement& /*placement*/) override {
    if (!has_weights_) throw Error("rank 1: the file is gone");
    return ++asked_ % 3 == 0;
  }
  uint64_t place_experts(int layer, const parallel::ExpertPlacement& placement) override {
    EXPECT_EQ(asked_ % 3, 0);
    placed.push_back(layer);
    inner_.place_experts(layer, placement);
    return 1000;
  }

  std::vector<int> placed;  // layers

 private:
  ModelRunner& inner_;
  const bool has_weights_;
  int asked_ = 0;
};

// What comes of it when it is asked for; requests are served afterwards.
RebalanceResult move_experts(bool has_weights, std::vector<int>& placed) {
  const LoadOptions load = small_model("dp=4,ep=4");
  LoadedModel model = LoadedModel::load(load);
  SlowToPrepare runner(model.runner(), has_weights);
  Recorder recorder;
  Engine engine(runner, engine_options_of(model, load));
  run_skewed(engine, recorder, 4, 11);
  const auto told = std::make_shared<std::promise<RebalanceResult>>();
  engine.rebalance_experts([told](const RebalanceResult* result) { told->set_value(*result); });
  const RebalanceResult result = told->get_future().get();
  run_skewed(engine, recorder, 1, 12);
  EXPECT_NE(recorder.wait(skewed_request(0, 12).id).answer.finish, FinishReason::error);
  placed = runner.placed;
  return result;
}

TEST(ExpertBalancer, MovesALayerWhenItsWeightsAreThere) {
  std::vector<int> placed;
  const RebalanceResult result = move_experts(true, placed);
  EXPECT_GT(placed.size(), 0U);
  EXPECT_EQ(result.moves.layers, placed.size());
  EXPECT_EQ(result.moves.bytes, 1000 * placed.size());
}

TEST(ExpertBalancer, LeavesExpertsWhereTheyAreWhenWeightsCannotBeHad) {
  std::vector<int> placed;
  const RebalanceResult result = move_experts(false, placed);
  EXPECT_EQ(placed, std::vector<int>());
  EXPECT_EQ(result.moves.layers, 0U);
  EXPECT_EQ(result.after, result.before);
}

TEST(ExpertBalancer, TellsThatExpertsCannotMove) {
  const LoadOptions load = small_model("tp=1");
  LoadedModel model = LoadedModel::load(load);
  EngineOptions options = engine_options_of(model, load);
  {
    Engine engine(model.runner(), options);
    const auto told = std::make_shared<std::promise<bool>>();
    engine.rebalance_experts([told](const RebalanceResult* result) { told->set_value(result == nullptr); });
    EXPECT_TRUE(told->get_future().get());
    EXPECT_EQ(engine.stats().experts, nullptr);
  }
  options.eplb.enabled = true;
  EXPECT_THROW(Engine(model.runner(), options), Error);
  LoadOptions enabled = small_model("tp=2");
  enabled.parallel.enable_eplb = true;
  EXPECT_THROW(LoadedModel::load(enabled), Error);
}

TEST(ProposedPlacement, MovesLayersThatAreOutOfBalanceAlone) {
  const parallel::PlacementShape shape{.num_layers = 3, .num_experts = 4, .ep_size = 2, .num_redundant = 0};
  const auto trivial = parallel::ExpertPlacement::trivial(shape);
  const parallel::LoadRows load{{4, 4, 0, 0}, {5, 5, 4, 5}, {0, 0, 0, 0}};
  const PlacementProposal proposal = propose_placement(trivial, load, 0.8);
  EXPECT_EQ(proposal.layers, std::vector<int>{0});
  EXPECT_EQ(proposal.placement.imbalance(0, load[0]), 1);
  for (const int l : {1, 2}) {
    EXPECT_TRUE(
        std::ranges::equal(proposal.placement.physical_to_logical(l), trivial.physical_to_logical(l)));
  }
  EXPECT_TRUE(propose_placement(trivial, load, 0.4).layers.empty());
}

}  // namespace
}  // namespace chorale::engine
