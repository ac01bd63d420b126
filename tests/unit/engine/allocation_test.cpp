// In steady state a decode step allocates nothing before its events are told.
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/step_planner.h"
#include "engine/token_chooser.h"
#include "unit/allocation_counter.h"
#include "unit/engine/decode_steps.h"
#include "unit/engine/host_runner.h"

namespace chorale::engine {
namespace {

// Every row of logits is the same.
class RampRunner : public HostRunner {
 public:
  explicit RampRunner(int64_t vocab_size) : HostRunner(vocab_size) {
    for (int64_t i = 0; i < kMaxRows * vocab_size; ++i) rows_.push_back(static_cast<float>(i % vocab_size));
  }

 protected:
  std::span<const float> compute(const StepPlan& plan) override {
    return std::span(rows_).first(plan.logits_tokens.size() * static_cast<size_t>(vocab_size_));
  }

 private:
  static constexpr int64_t kMaxRows = 4;
  std::vector<float> rows_;
};

// With each step planned when the one before it is over, and ahead of that.
class PlanningAndSampling : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Allocation, PlanningAndSampling, testing::Bool());

TEST_P(PlanningAndSampling, ReuseTheirBuffers) {
  EngineOptions options;
  options.block_tokens = kBlockTokens;
  options.max_total_tokens = 64 * kBlockTokens;
  options.max_running_requests = options.max_logits_rows = 4;
  RampRunner runner(500);
  StepPlanner planner(options, 1);
  MaskWorkers masks(0);
  TokenChooser chooser(runner, options.eos_token_ids, masks);
  std::vector<SampledStep> sampled(1);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (uint64_t i = 0; i < 4; ++i) {
    GenerationRequest request;
    request.prompt_ids.assign(20, static_cast<int32_t>(i));
    SamplingParams& p = request.sampling;
    p.repetition_penalty = 1.1;
    p.temperature = 30;
    if (i % 2 == 0) p.top_p = 0.9;
    if (i == 1) p.top_k = 40;
    if (i == 2) p.logit_bias = {{7, 100.0F}};
    if (i == 3) {
      p.min_new_tokens = 100;
      p.stop_token_ids = {499};
    }
    sequences.push_back(std::make_unique<Sequence>(std::move(request), EventListener()));
    sequences.back()->arrival = i;
    sequences.back()->max_output = 200;
    sequences.back()->tokens.reserve(220);
    sequences.back()->blocks.reserve(8);
    planner.add(*sequences.back());
  }
  const bool is_ahead = GetParam();
  bool is_planned = false;
  auto step = [&] {
    const PlannedStep* const planned = is_planned ? planner.begin_ahead() : &planner.plan();
    if (!is_planned) runner.forward(planned->plans);
    planner.commit();
    runner.start_sampling(chooser.plan(*planned));
    if (is_ahead) {
      runner.forward(planner.plan_ahead()->plans);
      is_planned = true;
    }
    runner.collect(sampled);
    for (const ScheduledSequence& s : planned->groups[0]->sequences) {
      const Choice choice = chooser.choose(s, sampled[0]);
      ASSERT_EQ(choice.status, ChoiceStatus::chosen);
      s.sequence->tokens.push_back(choice.token);
    }
  };
  for (int i = 0; i < 15; ++i) step();  // every sequence has begun its second block
  const int64_t before = num_allocations;
  for (int i = 0; i < 20; ++i) step();
  const int64_t within_a_block = num_allocations - before;
  for (int i = 0; i < 80; ++i) step();
  const int64_t over_blocks = num_allocations - before;
  EXPECT_GT(before, 0) << "allocations are counted";
  EXPECT_EQ(within_a_block, 0);
  EXPECT_LE(over_blocks, is_ahead ? 8 : 4)
      << "the block tables of the plans, and the fake runner's, double now and then";
  for (auto& sequence : sequences) planner.remove(*sequence);
}

// The forward pass on one rank, and on eight that exchange tokens, with weights of each kind.
TEST(Allocation, ADecodeStepOfTheModelAllocatesNothing) {
  const std::vector<std::pair<bool, const char*>> cases{
      {false, "none"}, {true, "none"}, {false, "int8"}, {true, "int8"}, {true, "int4"}};
  for (const auto& [ranks, quantization] : cases) {
    LoadOptions options = decode_options();
    options.quantization = quantization;
    if (ranks) {
      options.parallel.strategy.tp_size = 4;
      options.parallel.strategy.dp_size = 2;
      options.parallel.strategy.ep_size = 8;
    }
    LoadedModel model = LoadedModel::load(options);
    DecodeSteps steps(model.runner());
    steps.run(0, 1);
    const int64_t before = num_allocations;
    steps.run(1, 30);
    EXPECT_EQ(num_allocations - before, 0) << (ranks ? "8 ranks, " : "1 rank, ") << quantization;
  }
}

}  // namespace
}  // namespace chorale::engine
