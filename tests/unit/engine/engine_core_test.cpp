// The engine without a thread, and by a clock that a test advances.
#include "engine/engine_core.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/admission.h"
#include "engine/engine.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/recorder.h"

namespace chorale::engine {
namespace {

using TimePoint = std::chrono::steady_clock::time_point;
using std::chrono::milliseconds;

constexpr int64_t kVocab = 64;
constexpr int64_t kBlocks = 32;

// Every step takes a quarter of a second, a number that sums are exact with.
class TimedRunner : public FakeRunner {
 public:
  TimedRunner() : FakeRunner(kVocab, kBlocks) {}
  std::span<const float> compute(const StepPlan& plan) override {
    now += milliseconds(250);
    return FakeRunner::compute(plan);
  }
  Clock clock() {
    return [this] { return now; };
  }
  TimePoint now;
};

EngineOptions small_options() {
  EngineOptions options;
  options.max_total_tokens = kBlocks * kBlockTokens;
  options.max_context_len = 256;
  options.chunked_prefill_size = 8;
  options.max_running_requests = 4;
  return options;
}

GenerationRequest request(const std::string& id, int64_t prompt_tokens, int64_t new_tokens) {
  GenerationRequest request;
  request.id = id;
  request.prompt_ids.assign(static_cast<size_t>(prompt_tokens), 5);
  request.sampling.max_new_tokens = new_tokens;
  request.sampling.ignore_eos = true;
  request.sampling.seed = 7;
  return request;
}

std::unique_ptr<Sequence> sequence_of(const EngineCore& core, GenerationRequest request,
                                      EventListener listener, uint64_t arrival, TimePoint now) {
  std::unique_ptr<Sequence> sequence;
  const auto error =
      make_sequence({std::move(request), std::move(listener)}, core.options(), core.vocab_size(), sequence);
  EXPECT_FALSE(error.has_value());
  sequence->arrival = sequence->submission = arrival;
  sequence->seed = *sequence->request.sampling.seed;
  sequence->submitted = now;
  return sequence;
}

TEST(EngineCore, StepsOnlyWhenItIsTold) {
  TimedRunner runner;
  EngineCore core(runner, small_options(), runner.clock(), 0);
  EXPECT_TRUE(core.is_empty());
  core.step();
  EXPECT_EQ(runner.num_steps, 0);

  // 20 prompt tokens are three chunks; the third gives the first token.
  std::vector<int64_t> steps_of_tokens;
  FinishReason finish = FinishReason::none;
  core.add(sequence_of(
      core, request("a", 20, 3),
      [&](GenerationEvent event) {
        for (size_t i = 0; i < event.token_ids.size(); ++i) steps_of_tokens.push_back(runner.num_steps);
        finish = event.finish;
      },
      0, runner.now));
  while (!core.is_empty()) {
    core.step();
    core.deliver();
  }
  EXPECT_EQ(steps_of_tokens, (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(finish, FinishReason::length);
  EXPECT_EQ(core.stats().steps, 5);
  EXPECT_EQ(core.stats().finished_length, 1);
  EXPECT_EQ(core.stats().running, 0);
}

TEST(EngineCore, GoesByItsClockAlone) {
  TimedRunner runner;
  EngineCore core(runner, small_options(), runner.clock(), 0);
  // Both are computed by the second step that begins after they came; the first waits for none.
  std::map<std::string, double> queued;
  const auto listener = [&](const std::string& id) {
    return [&queued, id](GenerationEvent event) { queued[id] = event.queue_seconds; };
  };
  core.add(sequence_of(core, request("first", 4, 4), listener("first"), 0, runner.now));
  core.step();
  core.deliver();
  core.add(sequence_of(core, request("second", 4, 1), listener("second"), 1, runner.now - milliseconds(125)));
  while (!core.is_empty()) {
    core.step();
    core.deliver();
  }
  EXPECT_EQ(queued, (std::map<std::string, double>{{"first", 0.0}, {"second", 0.125}}));
  double seconds = 0;
  for (const TimeHistogram& phase : core.stats().step_seconds) seconds += phase.sum;
  EXPECT_EQ(seconds, 0.25 * static_cast<double>(core.stats().steps));
}

TEST(EngineCore, EndsWhatItIsToldToEnd) {
  TimedRunner runner;
  EngineCore core(runner, small_options(), runner.clock(), 0);
  std::vector<FinishReason> finished(2, FinishReason::none);
  for (uint64_t i = 0; i < 2; ++i) {
    core.add(sequence_of(
        core, request(std::to_string(i), 4, 100),
        [&finished, i](GenerationEvent event) { finished[i] = event.finish; }, i, runner.now));
  }
  core.step();
  core.deliver();
  core.abort(1);
  core.abort(17);  // nobody's
  core.deliver();
  EXPECT_EQ(finished, (std::vector<FinishReason>{FinishReason::none, FinishReason::aborted}));
  core.abort_all();
  core.deliver();
  EXPECT_EQ(finished, (std::vector<FinishReason>{FinishReason::aborted, FinishReason::aborted}));
  EXPECT_TRUE(core.is_empty());
  EXPECT_EQ(core.stats().kv_tokens_used, 0);
}

TEST(EngineClock, TimesOfRequestsAndStepsAreItsOwn) {
  TimedRunner runner;
  Recorder recorder;
  Engine engine(runner, small_options(), runner.clock());
  ASSERT_FALSE(engine.submit(request("a", 20, 3), recorder.listener("a")).has_value());
  ASSERT_TRUE(engine.wait_idle(60));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.queue_seconds.sum, 0.0);
  double seconds = 0;
  for (const TimeHistogram& phase : stats.step_seconds) seconds += phase.sum;
  EXPECT_EQ(seconds, 1.25);
}

}  // namespace
}  // namespace chorale::engine
