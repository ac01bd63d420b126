#include "engine/engine.h"

#include <algorithm>
#include <future>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/engine/fake_runner.h"
#include "unit/engine/recorder.h"

namespace chorale::engine {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kVocab = 50;

EngineOptions small_options(int64_t num_blocks = 16) {
  EngineOptions options;
  options.max_total_tokens = num_blocks * kBlockTokens;
  options.chunked_prefill_size = 64;
  options.max_running_requests = 8;
  options.max_context_len = 400;
  return options;
}

// A runner and an engine, with defaults that a test changes before start().
class EngineTest : public ::testing::Test {
 protected:
  void start() {
    runner = std::make_unique<FakeRunner>(kVocab, options.max_total_tokens / kBlockTokens);
    runner->poison_token = poison;
    engine = std::make_unique<Engine>(*runner, options);
  }

  static GenerationRequest request(const std::string& id, int64_t num_prompt, int64_t max_new_tokens) {
    GenerationRequest r;
    r.id = id;
    for (int64_t i = 0; i < num_prompt; ++i)
      r.prompt_ids.push_back(static_cast<int32_t>((i * 7 + 3) % (kVocab - 1)));
    r.sampling.max_new_tokens = max_new_tokens;
    r.sampling.seed = 11;
    return r;
  }

  std::optional<RequestError> submit(const GenerationRequest& r) {
    return engine->submit(r, recorder.listener(r.id));
  }
  Record answer(const GenerationRequest& r) {
    const auto error = submit(r);
    EXPECT_FALSE(error.has_value()) << error->message;
    return recorder.wait(r.id);
  }
  void expect_all_free() {
    EXPECT_TRUE(engine->wait_idle(60));
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.kv_tokens_used, 0);
  }

  EngineOptions options = small_options();
  int32_t poison = -1;
  Recorder recorder;
  std::unique_ptr<FakeRunner> runner;
  std::unique_ptr<Engine> engine;
};

TEST_F(EngineTest, AnswersAsTheModelAloneWould) {
  start();
  GenerationRequest r = request("a", 70, 40);
  r.num_top_logprobs = 3;
  r.prompt_logprobs_start = 0;
  const Record record = answer(r);
  expect_same(record.answer, answer_alone(*runner, r, options), "a");
  EXPECT_EQ(record.answer.prompt_logprobs.size(), 69u);
  EXPECT_EQ(record.num_prompt_tokens, 70);
  EXPECT_EQ(record.num_completion_tokens, 40);
  EXPECT_EQ(record.num_events, 40);
  EXPECT_EQ(record.answer.finish, FinishReason::length);
  expect_all_free();
  EXPECT_FALSE(recorder.get("a").listener_alive);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.prompt_tokens, 70u);
  EXPECT_EQ(stats.generated_tokens, 40u);
  EXPECT_EQ(stats.finished_length, 1u);
  EXPECT_EQ(stats.kv_tokens_total, options.max_total_tokens);
  EXPECT_EQ(stats.kv_tokens_cached, 3 * kBlockTokens) << "109 tokens were computed";
}

TEST_F(EngineTest, TimesStepsByPhaseAndTheWaitOfEachRequest) {
  options.max_running_requests = 2;
  start();
  runner->close_gate();
  ASSERT_FALSE(submit(request("a", 100, 5)));  // 64 tokens, then 36
  runner->wait_until_held();
  ASSERT_FALSE(submit(request("b", 10, 5)));  // with the second part of the first
  ASSERT_FALSE(submit(request("c", 10, 3)));  // when one of the two has ended
  runner->open_gate();
  for (const char* id : {"a", "b", "c"}) recorder.wait(id);
  expect_all_free();
  const EngineStats stats = engine->stats();
  const auto count = [&](StepPhase phase) { return stats.step_seconds[static_cast<size_t>(phase)].count(); };
  EXPECT_EQ(count(StepPhase::prefill), 3u);
  EXPECT_EQ(count(StepPhase::mixed), 0u);
  EXPECT_EQ(count(StepPhase::decode), 6u);
  EXPECT_EQ(stats.steps, 9u);
  EXPECT_EQ(stats.queue_seconds.count(), 3u);
  EXPECT_GE(stats.queue_seconds.sum, 0);
}

TEST_F(EngineTest, AStepThatPrefillsAndDecodesIsMixed) {
  start();
  runner->close_gate();
  ASSERT_FALSE(submit(request("a", 10, 3)));
  runner->wait_until_held();
  ASSERT_FALSE(submit(request("b", 20, 2)));
  runner->open_gate();
  recorder.wait("a");
  recorder.wait("b");
  expect_all_free();
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.step_seconds[static_cast<size_t>(StepPhase::prefill)].count(), 1u);
  EXPECT_EQ(stats.step_seconds[static_cast<size_t>(StepPhase::mixed)].count(), 1u);
  EXPECT_EQ(stats.step_seconds[static_cast<size_t>(StepPhase::decode)].count(), 1u);
}

TEST(TimeHistogram, BoundsAreInclusive) {
  TimeHistogram times;
  for (const double seconds : {0.0, .0005, .0006, 300.0, 301.0}) times.observe(seconds);
  EXPECT_EQ(times.count(), 5u);
  EXPECT_EQ(times.counts.front(), 2u);
  EXPECT_EQ(times.counts[1], 1u);
  EXPECT_EQ(times.counts[TimeHistogram::kBounds.size() - 1], 1u);
  EXPECT_EQ(times.counts.back(), 1u);
  EXPECT_DOUBLE_EQ(times.sum, 601.0011);
}

TEST_F(EngineTest, StopsAtEosAndAtStopTokens) {
  start();
  const auto free_run = answer(request("free", 5, 60)).answer.tokens;
  const int32_t stop = free_run[20];
  const auto first =
      static_cast<size_t>(std::find(free_run.begin(), free_run.end(), stop) - free_run.begin());
  GenerationRequest r = request("stop", 5, 60);
  r.sampling.stop_token_ids = {stop};
  Record record = answer(r);
  EXPECT_EQ(record.answer.finish, FinishReason::stop);
  EXPECT_EQ(record.matched_stop_token, stop);
  EXPECT_EQ(record.answer.tokens,
            std::vector<int32_t>(free_run.begin(), free_run.begin() + static_cast<long>(first) + 1));

  engine.reset();
  options.eos_token_ids = {stop};
  start();
  record = answer(request("eos", 5, 60));
  EXPECT_EQ(record.answer.finish, FinishReason::stop);
  EXPECT_EQ(record.matched_stop_token, stop);
  GenerationRequest ignoring = request("ignore", 5, 60);
  ignoring.sampling.ignore_eos = true;
  record = answer(ignoring);
  EXPECT_EQ(record.answer.finish, FinishReason::length);
  EXPECT_EQ(record.answer.tokens, free_run);
  EXPECT_FALSE(record.matched_stop_token.has_value());
  GenerationRequest patient = request("patient", 5, 60);
  patient.sampling.min_new_tokens = 60;
  record = answer(patient);
  EXPECT_EQ(record.answer.finish, FinishReason::length);
  EXPECT_EQ(std::count(record.answer.tokens.begin(), record.answer.tokens.end(), stop), 0);
  EXPECT_EQ(engine->stats().finished_stop, 1u);
}

TEST_F(EngineTest, ClipsToTheContextLengthAndToTheCache) {
  start();
  EXPECT_EQ(answer(request("context", 390, 100)).num_completion_tokens, 10);
  EXPECT_EQ(answer(request("most", 399, 100)).num_completion_tokens, 1);
  engine.reset();
  options = small_options(2);
  start();
  const Record record = answer(request("cache", 60, 100));
  EXPECT_EQ(record.num_completion_tokens, 5) << "the last token needs no room";
  EXPECT_EQ(record.answer.finish, FinishReason::length);
  EXPECT_EQ(answer(request("full", 64, 100)).num_completion_tokens, 1);
  expect_all_free();
}

TEST_F(EngineTest, RefusesWhatCannotRun) {
  start();
  auto refused = [&](const GenerationRequest& r) {
    const auto error = submit(r);
    EXPECT_TRUE(error.has_value());
    EXPECT_EQ(recorder.get(r.id).num_events, 0);
    EXPECT_FALSE(recorder.get(r.id).listener_alive);
    return error.value_or(RequestError{});
  };
  RequestError error = refused(request("long", 400, 1));
  EXPECT_EQ(error.kind, RequestError::Kind::too_long);
  EXPECT_THAT(error.message, HasSubstr("400 tokens"));
  error = refused(request("empty", 0, 1));
  EXPECT_EQ(error.kind, RequestError::Kind::invalid);
  GenerationRequest r = request("vocabulary", 3, 1);
  r.prompt_ids[1] = kVocab;
  error = refused(r);
  EXPECT_EQ(error.kind, RequestError::Kind::invalid);
  EXPECT_THAT(error.message, HasSubstr("50"));
  r = request("temperature", 3, 1);
  r.sampling.temperature = -1;
  error = refused(r);
  EXPECT_EQ(error.param, "temperature");
  engine.reset();
  options.max_total_tokens = 2 * kBlockTokens;
  start();
  error = refused(request("cache", 65, 1));
  EXPECT_EQ(error.kind, RequestError::Kind::too_long);
  EXPECT_THAT(error.message, HasSubstr("65 tokens"));
  EXPECT_THAT(error.message, HasSubstr("64 tokens"));
}

TEST_F(EngineTest, RefusesALiveIdAndTakesItAgainLater) {
  start();
  runner->close_gate();
  EXPECT_FALSE(submit(request("a", 5, 3)).has_value());
  Recorder other;
  const auto error = engine->submit(request("a", 5, 3), other.listener("a"));
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->kind, RequestError::Kind::invalid);
  EXPECT_EQ(error->param, "id");
  runner->open_gate();
  recorder.wait("a");
  EXPECT_EQ(answer(request("a", 5, 3)).answer.finish, FinishReason::length);
}

TEST_F(EngineTest, RefusesMoreThanTheQueueHolds) {
  options.max_queued_requests = 3;
  options.max_running_requests = 1;
  start();
  runner->close_gate();
  EXPECT_FALSE(submit(request("running", 5, 2)).has_value());
  runner->wait_until_held();
  int accepted = 0;
  std::optional<RequestError> error;
  for (int i = 0; i < 10 && !error; ++i) {
    error = submit(request(fmt::format("q{}", i), 5, 2));
    accepted += error ? 0 : 1;
  }
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->kind, RequestError::Kind::overloaded);
  EXPECT_LE(accepted, 3);
  EXPECT_GE(accepted, 2) << "the one that runs may still count as waiting";
  runner->open_gate();
  expect_all_free();
  EXPECT_FALSE(submit(request("later", 5, 2)).has_value());
}

TEST_F(EngineTest, RequestsThatComeTogetherAreQueuedTogetherOrNotAtAll) {
  options.max_queued_requests = 4;  // the one that runs counts until its first step is over
  options.max_running_requests = 1;
  start();
  auto submissions = [&](const std::string& prefix, int count) {
    std::vector<Submission> all;
    for (int i = 0; i < count; ++i) {
      const GenerationRequest r = request(fmt::format("{}{}", prefix, i), 5, 4);
      all.push_back({r, recorder.listener(r.id)});
    }
    return all;
  };
  runner->close_gate();
  ASSERT_FALSE(submit(request("running", 5, 4)));
  runner->wait_until_held();
  auto taken = submissions("d", 1);
  taken.push_back({request("running", 5, 4), recorder.listener("other")});
  const auto known = engine->submit(std::move(taken));
  ASSERT_TRUE(known);
  EXPECT_EQ(known->param, "id");
  ASSERT_FALSE(engine->submit(submissions("a", 2)));
  const auto full = engine->submit(submissions("b", 2));
  ASSERT_TRUE(full);
  EXPECT_EQ(full->kind, RequestError::Kind::overloaded);
  const auto never = engine->submit(submissions("c", 5));
  ASSERT_TRUE(never);
  EXPECT_EQ(never->kind, RequestError::Kind::invalid);
  auto faulty = submissions("e", 1);
  faulty.push_back({request("faulty", 500, 4), recorder.listener("faulty")});
  EXPECT_TRUE(engine->submit(std::move(faulty)));
  ASSERT_FALSE(engine->submit(submissions("f", 1)));  // the one place that is left
  runner->open_gate();
  for (const char* id : {"running", "a0", "a1", "f0"}) {
    EXPECT_EQ(recorder.wait(id).answer.finish, FinishReason::length);
  }
  expect_all_free();
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.finished_length, 4U);
  EXPECT_EQ(stats.finished_aborted, 0U);
  EXPECT_EQ(stats.generated_tokens, 16U);
  EXPECT_EQ(stats.queue_seconds.count(), 4U);
  for (const char* id : {"b0", "b1", "c0", "d0", "e0"}) {
    EXPECT_EQ(recorder.get(id).num_events, 0) << id;
    EXPECT_FALSE(recorder.get(id).listener_alive) << id;
  }
}

TEST_F(EngineTest, AbortsInEveryPhaseAndFreesBlocks) {
  options.max_running_requests = 1;
  start();
  runner->close_gate();
  ASSERT_FALSE(submit(request("running", 40, 300)).has_value());
  ASSERT_FALSE(submit(request("waiting", 40, 300)).has_value());
  runner->wait_until_held();
  engine->abort("waiting");
  engine->abort("running");
  engine->abort("running");
  engine->abort("unknown");
  runner->open_gate();
  Record record = recorder.wait("running");
  EXPECT_EQ(record.answer.finish, FinishReason::aborted);
  EXPECT_LE(record.num_completion_tokens, 1);
  record = recorder.wait("waiting");
  EXPECT_EQ(record.answer.finish, FinishReason::aborted);
  EXPECT_EQ(record.num_completion_tokens, 0);
  expect_all_free();
  EXPECT_EQ(engine->stats().finished_aborted, 2u);
  EXPECT_LE(engine->stats().steps, 1u);
}

TEST_F(EngineTest, AnAbortDoesNotHitTheNextRequestOfTheSameId) {
  start();
  runner->close_gate();
  ASSERT_FALSE(submit(request("a", 5, 1)).has_value());
  runner->wait_until_held();
  // Taken while "a" runs its only step; it will have finished before the abort is looked at.
  engine->abort("a");
  std::optional<RequestError> second;
  Recorder later;
  runner->open_gate();
  const Record first = recorder.wait("a");
  EXPECT_EQ(first.answer.finish, FinishReason::length);
  second = engine->submit(request("a", 5, 2), later.listener("a"));
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(later.wait("a").answer.finish, FinishReason::length);
  expect_all_free();
}

TEST_F(EngineTest, AListenerMayAbort) {
  start();
  auto done = std::make_shared<std::promise<GenerationEvent>>();
  auto tokens = std::make_shared<int>(0);
  const auto error = engine->submit(request("a", 5, 300), [this, done, tokens](GenerationEvent event) {
    *tokens += static_cast<int>(event.token_ids.size());
    if (*tokens == 3 && event.finish == FinishReason::none) engine->abort("a");
    if (event.finish != FinishReason::none) done->set_value(event);
  });
  ASSERT_FALSE(error.has_value());
  const GenerationEvent last = done->get_future().get();
  EXPECT_EQ(last.finish, FinishReason::aborted);
  EXPECT_EQ(*tokens, 3);
}

TEST_F(EngineTest, FindsPrefixesUntilTheyAreFlushed) {
  start();
  const GenerationRequest a = request("a", 100, 5);
  const Record cold = answer(a);
  EXPECT_EQ(cold.num_cached_tokens, 0);
  Record warm = answer(a);
  EXPECT_EQ(warm.num_cached_tokens, 96);
  expect_same(warm.answer, cold.answer, "warm");
  GenerationRequest longer = a;  // a conversation goes on: prompt, answer, next turn
  longer.prompt_ids.insert(longer.prompt_ids.end(), cold.answer.tokens.begin(), cold.answer.tokens.end());
  longer.prompt_ids.resize(140, 1);
  warm = answer(longer);
  EXPECT_EQ(warm.num_cached_tokens, 96);
  expect_same(warm.answer, answer_alone(*runner, longer, options), "longer");
  EXPECT_EQ(engine->stats().cached_tokens, 2u * 96);
  engine->flush_prefix_cache();
  expect_all_free();
  EXPECT_EQ(engine->stats().kv_tokens_cached, 0);
  EXPECT_EQ(answer(a).num_cached_tokens, 0);
  engine.reset();
  options.enable_prefix_cache = false;
  start();
  answer(a);
  EXPECT_EQ(answer(a).num_cached_tokens, 0);
  EXPECT_EQ(engine->stats().kv_tokens_cached, 0);
  EXPECT_EQ(engine->stats().prefix_queries, 0u);
}

TEST_F(EngineTest, NanEndsThatRequestAlone) {
  poison = kVocab - 1;  // request() never has it in a prompt
  start();
  GenerationRequest bad = request("bad", 40, 20);
  bad.prompt_ids[10] = poison;
  GenerationRequest scored = bad;
  scored.id = "scored";
  scored.prompt_logprobs_start = 0;
  GenerationRequest good = request("good", 40, 20);
  good.sampling.logit_bias = {{poison, -1000.0f}};
  runner->close_gate();
  for (const auto& r : {good, bad, scored}) ASSERT_FALSE(submit(r).has_value());
  runner->open_gate();
  for (const std::string id : {"bad", "scored"}) {
    const Record record = recorder.wait(id);
    EXPECT_EQ(record.answer.finish, FinishReason::error);
    ASSERT_TRUE(record.error.has_value());
    EXPECT_EQ(record.error->kind, RequestError::Kind::failed);
    EXPECT_EQ(record.error->message, "the model produced NaN logits");
    EXPECT_EQ(record.num_completion_tokens, 0);
  }
  expect_same(recorder.wait("good").answer, answer_alone(*runner, good, options), "good");
  expect_all_free();
  EXPECT_EQ(engine->stats().finished_error, 2u);
  EXPECT_FALSE(engine->stats().failed);
}

TEST_F(EngineTest, ARunnerThatThrowsEndsEverythingAndNothingNewIsTaken) {
  options.max_running_requests = 1;
  start();
  runner->throw_on_step = 3;
  runner->close_gate();
  ASSERT_FALSE(submit(request("running", 5, 100)).has_value());
  ASSERT_FALSE(submit(request("waiting", 5, 100)).has_value());
  runner->open_gate();
  for (const std::string id : {"running", "waiting"}) {
    const Record record = recorder.wait(id);
    EXPECT_EQ(record.answer.finish, FinishReason::error);
    ASSERT_TRUE(record.error.has_value());
    EXPECT_EQ(record.error->kind, RequestError::Kind::failed);
    EXPECT_THAT(record.error->message, HasSubstr("the fake model broke"));
  }
  expect_all_free();
  EXPECT_TRUE(engine->stats().failed);
  const auto error = submit(request("later", 5, 5));
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->kind, RequestError::Kind::unavailable);
}

TEST_F(EngineTest, DrainsAfterStopAccepting) {
  start();
  runner->close_gate();
  std::vector<std::string> ids;
  for (int i = 0; i < 12; ++i) {
    ids.push_back(fmt::format("r{}", i));
    ASSERT_FALSE(submit(request(ids.back(), 10 + i, 20)).has_value());
  }
  engine->stop_accepting();
  const auto error = submit(request("late", 5, 5));
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->kind, RequestError::Kind::unavailable);
  EXPECT_FALSE(engine->wait_idle(0.01));
  runner->open_gate();
  EXPECT_TRUE(engine->wait_idle(60));
  for (const std::string& id : ids) EXPECT_EQ(recorder.get(id).answer.finish, FinishReason::length);
  EXPECT_TRUE(engine->wait_idle(0));
  EXPECT_TRUE(engine->wait_idle(std::numeric_limits<double>::infinity()));
}

TEST_F(EngineTest, TheDestructorAbortsWhatLives) {
  options.max_running_requests = 2;
  start();
  runner->close_gate();
  for (int i = 0; i < 6; ++i) ASSERT_FALSE(submit(request(fmt::format("r{}", i), 10, 390)).has_value());
  runner->wait_until_held();
  std::thread ends([this] { engine.reset(); });  // waits for the step that is held
  runner->open_gate();
  ends.join();
  for (int i = 0; i < 6; ++i) {
    const Record record = recorder.get(fmt::format("r{}", i));
    EXPECT_TRUE(record.done);
    EXPECT_FALSE(record.listener_alive);
  }
  EXPECT_EQ(recorder.get("r5").answer.finish, FinishReason::aborted);
}

TEST_F(EngineTest, AFreshSeedDiffersPerRequestAndAGivenOneRepeats) {
  options.enable_prefix_cache = false;
  start();
  GenerationRequest r = request("a", 5, 20);
  EXPECT_EQ(answer(r).answer.tokens, answer(r).answer.tokens);
  GenerationRequest choice = r;
  choice.sampling.choice_index = 1;
  EXPECT_NE(answer(r).answer.tokens, answer(choice).answer.tokens);
  r.sampling.seed.reset();
  EXPECT_NE(answer(r).answer.tokens, answer(r).answer.tokens);
}

TEST_F(EngineTest, FirstTokensComeInOrderOfArrival) {
  options = small_options(6);
  options.schedule_policy = SchedulePolicy::fcfs;
  options.max_running_requests = 3;
  start();
  runner->close_gate();
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) {
    ids.push_back(fmt::format("r{}", i));
    ASSERT_FALSE(submit(request(ids.back(), 1 + (i * 37) % 150, 1 + i % 50)).has_value());
  }
  runner->open_gate();
  expect_all_free();
  EXPECT_EQ(recorder.order_of_first_tokens(), ids);
}

TEST_F(EngineTest, OptionsAreChecked) {
  FakeRunner model(kVocab, 16);
  auto refused = [&](auto change) {
    EngineOptions o = small_options();
    change(o);
    EXPECT_THROW(Engine(model, o), Error);
  };
  refused([](EngineOptions& o) { o.max_total_tokens = 0; });
  refused([](EngineOptions& o) { o.max_total_tokens = 33; });
  refused([](EngineOptions& o) { o.chunked_prefill_size = 0; });
  refused([](EngineOptions& o) { o.max_running_requests = 0; });
  refused([](EngineOptions& o) { o.max_queued_requests = 0; });
  refused([](EngineOptions& o) { o.max_context_len = 1; });
  refused([](EngineOptions& o) { o.max_logits_rows = o.max_running_requests - 1; });
}

}  // namespace
}  // namespace chorale::engine
