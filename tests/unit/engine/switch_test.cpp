// A switch to another strategy while requests run: what each of them is told is what it would have been told
// without it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/memory_info.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/mixed_requests.h"
#include "unit/engine/recorder.h"
#include "unit/engine/small_model.h"

namespace chorale::engine {
namespace {

// Of worlds 1 to 8; eight ranks in a tensor-parallel group share KV heads.
constexpr const char* kStrategies[] = {"tp=1",
                                       "dp=2",
                                       "tp=2",
                                       "tp=2,ep=2",
                                       "dp=3,ep=3",
                                       "dp=4",
                                       "tp=2,dp=2,ep=2,moe_tp=2",
                                       "tp=4",
                                       "tp=4,ep=4",
                                       "dp=5,ep=5",
                                       "tp=2,dp=3,ep=3",
                                       "dp=7,ep=7",
                                       "tp=8",
                                       "tp=4,dp=2,ep=8",
                                       "dp=8,ep=8",
                                       "tp=8,moe_dp=2"};

using Records = std::map<std::string, Record>;

// Usage may tell other numbers of cached tokens, as they depend on which requests have a group in common.
void expect_same_events(const Records& actual, const Records& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [id, record] : expected) {
    const Record& other = actual.at(id);
    const std::string where = what + ", " + id;
    expect_same(other.answer, record.answer, where);
    EXPECT_EQ(other.num_events, record.num_events) << where;
    EXPECT_EQ(other.matched_stop_token, record.matched_stop_token) << where;
    EXPECT_EQ(other.num_prompt_tokens, record.num_prompt_tokens) << where;
    EXPECT_EQ(other.num_completion_tokens, record.num_completion_tokens) << where;
    EXPECT_FALSE(other.error.has_value()) << where;
  }
}

void submit(Engine& engine, Recorder& recorder, const GenerationRequest& request) {
  EXPECT_FALSE(engine.submit(request, recorder.listener(request.id)).has_value());
}

Records wait_for_all(Recorder& recorder, const std::vector<GenerationRequest>& requests) {
  Records records;
  for (const GenerationRequest& r : requests) records[r.id] = recorder.wait(r.id);
  return records;
}

Records undisturbed(const LoadOptions& load, const std::vector<GenerationRequest>& requests) {
  LoadedModel model = LoadedModel::load(load);
  Recorder recorder;
  Engine engine(model.runner(), engine_options_of(model, load));
  for (const GenerationRequest& r : requests) submit(engine, recorder, r);
  return wait_for_all(recorder, requests);
}

SwitchResult switch_to(Engine& engine, ModelRunner& next, int64_t max_total_tokens) {
  const auto told = std::make_shared<std::promise<SwitchResult>>();
  engine.switch_runner(next, max_total_tokens,
                       [told](const SwitchResult& result) { told->set_value(result); });
  return told->get_future().get();
}

SwitchResult switch_to(Engine& engine, LoadedModel& model, const std::string& strategy) {
  std::unique_ptr<PreparedRunner> prepared = model.prepare(parallel::parse_strategy(strategy));
  const SwitchResult result = switch_to(engine, *prepared->runner, prepared->max_total_tokens);
  if (!result.error) model.adopt(std::move(prepared));
  return result;
}

// Does something on the engine's thread, when so many events were told: a moment that no clock sets.
class Trigger {
 public:
  void arm(int64_t events, std::function<void()> action) {
    const std::lock_guard lock(mutex_);
    events_ = events;
    action_ = std::move(action);
  }
  EventListener before(EventListener listener) {
    return [this, listener = std::move(listener)](GenerationEvent event) {
      listener(std::move(event));
      const std::lock_guard lock(mutex_);
      if (--events_ == 0) action_();
    };
  }

 private:
  std::mutex mutex_;
  int64_t events_ = 0;
  std::function<void()> action_;
};

// CHORALE_SWITCHES: how many of them a test makes.
int64_t num_switches(int64_t usual) {
  const char* const asked = std::getenv("CHORALE_SWITCHES");
  return asked != nullptr ? std::atoll(asked) : usual;
}

struct SwitchingCase {
  const char* name;
  const char* device;
  int64_t requests;
  int64_t switches;
  int64_t max_total_tokens;
  int ranks_per_gpu = 0;
};
class Switching : public testing::TestWithParam<SwitchingCase> {};
// In the small cache one group often has no room for what several have held.
INSTANTIATE_TEST_SUITE_P(Caches, Switching,
                         testing::Values(SwitchingCase{"large", "cpu", 20, 12, 4096},
                                         SwitchingCase{"small", "cpu", 14, 8, 224},
                                         SwitchingCase{"device", "ref", 4, 3, 1024},
                                         SwitchingCase{"devices", "ref", 3, 2, 1024, 1}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(Switching, NoEventDiffersWhateverTheStrategiesAndTheMoments) {
  const SwitchingCase& c = GetParam();
  std::mt19937_64 random(11);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  const std::vector<GenerationRequest> requests = mixed_requests(c.requests, 3);
  LoadOptions load = small_model("tp=1", c.device);
  load.max_total_tokens = c.max_total_tokens;
  load.parallel.ranks_per_gpu = c.ranks_per_gpu;
  const Records expected = undisturbed(load, requests);

  LoadedModel model = LoadedModel::load(load);
  Engine engine(model.runner(), engine_options_of(model, load));
  Trigger trigger;
  int64_t sequences = 0, blocks = 0;
  const int64_t switches = num_switches(c.switches);
  for (int64_t made = 0; made < switches;) {
    Recorder recorder;
    size_t submitted = 0;
    const auto submit_next = [&] {
      const GenerationRequest& request = requests[submitted++];
      EXPECT_FALSE(engine.submit(request, trigger.before(recorder.listener(request.id))).has_value());
    };
    std::string path;
    while (submitted < requests.size() && made < switches) {
      const int64_t count =
          std::min(1 + below(c.requests / 2), std::ssize(requests) - static_cast<int64_t>(submitted));
      const std::string strategy = kStrategies[below(std::ssize(kStrategies))];
      path += " > " + strategy;
      std::unique_ptr<PreparedRunner> prepared = model.prepare(parallel::parse_strategy(strategy));
      const auto told = std::make_shared<std::promise<SwitchResult>>();
      // Each of those that are submitted now has an event at least.
      trigger.arm(1 + below(count), [&] {
        engine.switch_runner(*prepared->runner, prepared->max_total_tokens,
                             [told](const SwitchResult& result) { told->set_value(result); });
      });
      for (int64_t i = 0; i < count; ++i) submit_next();
      const SwitchResult result = told->get_future().get();
      ASSERT_FALSE(result.error.has_value()) << *result.error << path;
      model.adopt(std::move(prepared));
      ++made;
      sequences += result.moved_sequences;
      blocks += result.moved_blocks;
      EXPECT_EQ(result.moved_bytes > 0, result.moved_blocks > 0);
    }
    while (submitted < requests.size()) submit_next();
    expect_same_events(wait_for_all(recorder, requests), expected, path);
    ASSERT_TRUE(engine.wait_idle(60));
  }
  EXPECT_EQ(engine.stats().switches, static_cast<uint64_t>(switches));
  EXPECT_GT(sequences, 0);
  EXPECT_GT(blocks, 0);
}

// Four groups have a sequence each, of which the one group that follows has room for one.
TEST(Switch, WhatFindsNoRoomIsComputedAgain) {
  LoadOptions load = small_model("dp=4");
  load.max_total_tokens = 7 * kBlockTokens;
  std::vector<GenerationRequest> requests;
  for (int32_t i = 0; i < 4; ++i) {
    GenerationRequest& r = requests.emplace_back();
    r.id = fmt::format("r{}", i);
    for (int32_t t = 0; t < 130; ++t) r.prompt_ids.push_back(100 * i + t);
    r.sampling.max_new_tokens = 30;
    r.sampling.repetition_penalty = 1.2;
    r.sampling.seed = static_cast<uint64_t>(i);
    r.sampling.ignore_eos = true;
    r.num_top_logprobs = 2;
  }
  const Records expected = undisturbed(load, requests);
  LoadedModel model = LoadedModel::load(load);
  const std::unique_ptr<PreparedRunner> prepared = model.prepare(parallel::parse_strategy("tp=2"));
  Recorder recorder;
  Trigger trigger;
  Engine engine(model.runner(), engine_options_of(model, load));
  const auto told = std::make_shared<std::promise<SwitchResult>>();
  trigger.arm(20, [&] {
    engine.switch_runner(*prepared->runner, prepared->max_total_tokens,
                         [told](const SwitchResult& result) { told->set_value(result); });
  });
  std::vector<Submission> together;
  for (const GenerationRequest& r : requests) {
    together.push_back({r, trigger.before(recorder.listener(r.id))});
  }
  ASSERT_FALSE(engine.submit(std::move(together)).has_value());
  const SwitchResult result = told->get_future().get();
  ASSERT_FALSE(result.error.has_value()) << *result.error;
  EXPECT_EQ(result.moved_sequences, 1);
  EXPECT_EQ(result.recomputed_sequences, 3);
  expect_same_events(wait_for_all(recorder, requests), expected, "with room for one");
  ASSERT_TRUE(engine.wait_idle(60));
  EXPECT_GE(engine.stats().preemptions, 3U);
}

TEST(Switch, ThePrefixCacheGoesAlong) {
  std::vector<GenerationRequest> requests = mixed_requests(8, 9);
  for (GenerationRequest& r : requests) r.prompt_logprobs_start = -1;
  LoadOptions load = small_model("tp=2,dp=2");
  LoadedModel model = LoadedModel::load(load);
  Recorder first, second;  // outlive the engine, which tells them of all that it ends
  Engine engine(model.runner(), engine_options_of(model, load));
  for (const GenerationRequest& r : requests) submit(engine, first, r);
  const Records expected = wait_for_all(first, requests);
  ASSERT_TRUE(engine.wait_idle(60));
  const EngineStats before = engine.stats();
  ASSERT_GT(before.kv_tokens_cached, 0);
  // Equal blocks of two groups become one.
  const SwitchResult result = switch_to(engine, model, "tp=8");
  ASSERT_FALSE(result.error.has_value()) << *result.error;
  EXPECT_EQ(result.moved_sequences, 0);
  const EngineStats after = engine.stats();
  EXPECT_GT(after.kv_tokens_cached, before.kv_tokens_cached / 2);
  EXPECT_LE(after.kv_tokens_cached, before.kv_tokens_cached);
  EXPECT_EQ(after.kv_tokens_cached, result.moved_blocks * kBlockTokens);
  EXPECT_EQ(after.prompt_tokens, before.prompt_tokens);
  EXPECT_EQ(after.kv_tokens_total, load.max_total_tokens);

  for (const GenerationRequest& r : requests) submit(engine, second, r);
  expect_same_events(wait_for_all(second, requests), expected, "from the cache");
  int64_t findable = 0;
  for (const GenerationRequest& r : requests) {
    findable += (std::ssize(r.prompt_ids) - 1) / kBlockTokens * kBlockTokens;
  }
  EXPECT_EQ(engine.stats().cached_tokens - before.cached_tokens, static_cast<uint64_t>(findable));
  ASSERT_TRUE(engine.wait_idle(60));
}

// What is refused, and what fails half-way, leaves the old ranks at work.
TEST(Switch, ThatFailsChangesNothing) {
  const std::vector<GenerationRequest> requests = mixed_requests(8, 21);
  LoadOptions load = small_model("dp=2,ep=2");
  const Records expected = undisturbed(load, requests);
  LoadedModel model = LoadedModel::load(load);
  Recorder recorder;
  Engine engine(model.runner(), engine_options_of(model, load));
  for (const GenerationRequest& r : requests) submit(engine, recorder, r);
  recorder.wait_tokens(requests[0].id, 2);

  FakeRunner broken(small_config().vocab_size, 128);  // its cache takes nothing over
  const SwitchResult failed = switch_to(engine, broken, 4096);
  ASSERT_TRUE(failed.error.has_value());
  EXPECT_NE(failed.error->find("cannot be moved"), std::string::npos) << *failed.error;

  const std::unique_ptr<PreparedRunner> prepared = model.prepare(parallel::parse_strategy("tp=2"));
  const SwitchResult refused = switch_to(engine, *prepared->runner, 64);
  ASSERT_TRUE(refused.error.has_value());
  EXPECT_NE(refused.error->find("64 tokens"), std::string::npos) << *refused.error;

  expect_same_events(wait_for_all(recorder, requests), expected, "after switches that failed");
  EXPECT_EQ(engine.stats().switches, 0U);
}

// The step that was planned ahead has lost its only sequence, and no other will end it.
TEST(Switch, DoesNotWaitForAStepThatNobodyNeeds) {
  FakeRunner ahead(40, 64), broken(40, 64);
  ahead.ahead = true;
  EngineOptions options;
  options.max_total_tokens = 64 * kBlockTokens;
  options.max_context_len = 500;
  Recorder recorder;
  Engine engine(ahead, options);
  const auto told = std::make_shared<std::promise<SwitchResult>>();
  Trigger trigger;
  trigger.arm(3, [&] {
    engine.abort("r");
    engine.switch_runner(broken, options.max_total_tokens,
                         [told](const SwitchResult& result) { told->set_value(result); });
  });
  GenerationRequest request;
  request.id = "r";
  request.prompt_ids = {1, 2, 3};
  request.sampling.max_new_tokens = 100;
  request.sampling.ignore_eos = true;
  ASSERT_FALSE(engine.submit(request, trigger.before(recorder.listener("r"))).has_value());
  std::future<SwitchResult> result = told->get_future();
  ASSERT_EQ(result.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_TRUE(result.get().error.has_value());
  EXPECT_EQ(recorder.wait("r").answer.finish, FinishReason::aborted);
  ASSERT_TRUE(engine.wait_idle(60));
}

TEST(Switch, IsRefusedWhereItDoesNotFit) {
  LoadOptions load = small_model("tp=1");
  const io::ModelConfig config = small_config();
  const int64_t token_bytes = config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 * 2;
  load.max_total_tokens =
      static_cast<int64_t>(available_memory()) / 4 / token_bytes / kBlockTokens * kBlockTokens;
  const LoadedModel model = LoadedModel::load(load);  // memory is taken as it is used
  EXPECT_THROW(model.prepare(parallel::parse_strategy("dp=8")), Error);
  EXPECT_THROW(model.prepare(parallel::parse_strategy("tp=3")), Error);
  EXPECT_NE(model.prepare(parallel::parse_strategy("tp=2")), nullptr);
}

TEST(Switch, CountsOfExpertsGoOn) {
  const std::vector<GenerationRequest> requests = mixed_requests(4, 5);
  LoadOptions load = small_model("tp=1");
  LoadedModel model = LoadedModel::load(load);
  const std::unique_ptr<PreparedRunner> prepared = model.prepare(parallel::parse_strategy("dp=4,ep=4"));
  Recorder recorder;
  Engine engine(model.runner(), engine_options_of(model, load));
  for (const GenerationRequest& r : requests) submit(engine, recorder, r);
  wait_for_all(recorder, requests);
  ASSERT_TRUE(engine.wait_idle(60));
  const auto load_now = [&] {
    const auto told = std::make_shared<std::promise<std::vector<int64_t>>>();
    engine.get_expert_load([told](std::vector<int64_t> counts) { told->set_value(std::move(counts)); });
    return told->get_future().get();
  };
  const std::vector<int64_t> before = load_now();
  EXPECT_EQ(engine.stats().experts, nullptr);
  ASSERT_FALSE(switch_to(engine, *prepared->runner, prepared->max_total_tokens).error.has_value());
  EXPECT_EQ(load_now(), before);
  ASSERT_TRUE(engine.wait_idle(60));
  EXPECT_NE(engine.stats().experts, nullptr);
}

}  // namespace
}  // namespace chorale::engine
