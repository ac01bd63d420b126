// An engine that plans a step while the one before it runs tells the same as one that waits: events, their
// order, and the engine's counters at the moment of each.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/random_traffic.h"
#include "unit/engine/small_config.h"
#include "unit/random_cases.h"

namespace chorale::engine {
namespace {

// Allows tokens by a hash of what came before. Some end, some fail.
class HashedConstraint : public TokenConstraint {
 public:
  HashedConstraint(uint64_t seed, int32_t end_token) : state_(seed), end_token_(end_token) {}

  std::optional<RequestError> next_mask(std::span<uint32_t> mask) override {
    if (state_ % 61 == 0) return RequestError{.kind = RequestError::Kind::failed, .message = "a hard rule"};
    for (uint32_t& word : mask) word = static_cast<uint32_t>(random_bits(state_, 5, ++calls_));
    if (state_ % 17 == 0) std::ranges::fill(mask, 0);
    mask.back() &= (uint32_t{1} << RandomTraffic::kVocab % 32) - 1;
    mask[static_cast<size_t>(end_token_ / 32)] |= uint32_t{1} << end_token_ % 32;
    return std::nullopt;
  }
  std::optional<RequestError> accept(int32_t token) override {
    state_ = random_bits(state_, 6, static_cast<uint64_t>(token));
    return std::nullopt;
  }

 private:
  uint64_t state_;
  uint64_t calls_ = 0;
  const int32_t end_token_;
};

std::string to_text(const std::vector<TokenLogprobs>& logprobs) {
  std::string text;
  for (const TokenLogprobs& x : logprobs) text += fmt::format("{}{} ", x.logprob, x.top);
  return text;
}

// What can be told but for times.
std::string to_text(const EngineStats& s) {
  std::string text = fmt::format(
      "running {} waiting {} used {} cached {} | prompt {} cached {} queries {} generated {} | stop {} "
      "length {} aborted {} error {} | preemptions {} steps {} queued {} failed {} |",
      s.running, s.waiting, s.kv_tokens_used, s.kv_tokens_cached, s.prompt_tokens, s.cached_tokens,
      s.prefix_queries, s.generated_tokens, s.finished_stop, s.finished_length, s.finished_aborted,
      s.finished_error, s.preemptions, s.steps, s.queue_seconds.count(), s.failed);
  for (const TimeHistogram& phase : s.step_seconds) text += fmt::format(" {}", phase.count());
  return text;
}

std::string to_text(const std::string& id, const GenerationEvent& e) {
  return fmt::format("{}: {} [{}] prompt [{}] finish {} matched {} error {} counts {} {} {}", id, e.token_ids,
                     to_text(e.logprobs), to_text(e.prompt_logprobs), static_cast<int>(e.finish),
                     e.matched_stop_token.value_or(-1), e.error ? e.error->message : "", e.num_prompt_tokens,
                     e.num_completion_tokens, e.num_cached_tokens);
}

struct Request {
  GenerationRequest request;
  int64_t abort_at = -1;  // so many tokens; -1: never
};

// Requests that come together, one wave when the one before it is done.
using Waves = std::vector<std::vector<Request>>;

// Everything that the engine tells, in its order. What it tells beside each event is what another thread
// would read at that moment.
std::vector<std::string> log_of(ModelRunner& runner, const EngineOptions& options, const Waves& waves) {
  std::vector<std::string> log;
  Engine engine(runner, options);
  for (const std::vector<Request>& wave : waves) {
    std::vector<Submission> submissions;
    for (const Request& r : wave) {
      submissions.push_back({r.request, [&, id = r.request.id, abort_at = r.abort_at](GenerationEvent event) {
                               log.push_back(to_text(id, event));
                               log.push_back(to_text(engine.stats()));
                               if (event.num_completion_tokens == abort_at) engine.abort(id);
                             }});
    }
    const auto error = engine.submit(std::move(submissions));
    EXPECT_FALSE(error.has_value()) << error->message;
    EXPECT_TRUE(engine.wait_idle(120));
    log.push_back(to_text(engine.stats()));
    if (wave.size() % 3 == 0) engine.flush_prefix_cache();
  }
  return log;
}

// With the first place in which they differ.
void expect_same_log(const std::vector<std::string>& actual, const std::vector<std::string>& expected,
                     const std::string& what) {
  for (size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    ASSERT_EQ(actual[i], expected[i])
        << what << ", entry " << i << " after " << (i > 0 ? expected[i - 1] : "");
  }
  ASSERT_EQ(actual.size(), expected.size()) << what;
}

Waves random_waves(RandomTraffic& traffic, const EngineOptions& options, uint32_t seed) {
  Waves waves(static_cast<size_t>(2 + traffic.below(2)));
  for (size_t w = 0; w < waves.size(); ++w) {
    const int64_t size = 4 + traffic.below(14);
    for (int64_t i = 0; i < size; ++i) {
      Request r{.request = traffic.request(fmt::format("{}/{}", w, i), options)};
      if (i > 0 && traffic.chance(4)) {  // another choice of the one before
        r.request.prompt_ids = waves[w].back().request.prompt_ids;
        r.request.sampling.choice_index = static_cast<uint32_t>(i);
        if (r.request.prompt_logprobs_start >= 0) r.request.prompt_logprobs_start = 0;
      }
      const int32_t eos = options.eos_token_ids[0];
      if (traffic.chance(6)) r.request.sampling.stop_token_ids = {static_cast<int32_t>(traffic.below(40))};
      if (traffic.chance(5)) {
        r.request.constraint = [seed, i, eos] {
          return std::make_unique<HashedConstraint>(seed * 1000 + static_cast<uint64_t>(i), eos);
        };
      }
      if (traffic.chance(5)) r.abort_at = 1 + traffic.below(20);
      waves[w].push_back(std::move(r));
    }
  }
  return waves;
}

TEST(EngineAhead, TellsWhatAnEngineThatWaitsTells) {
  int64_t forwards_ahead = 0, requests = 0;
  uint64_t preemptions = 0, cached = 0;
  for (uint32_t seed = 0; seed < static_cast<uint32_t>(random_cases(100)); ++seed) {
    RandomTraffic traffic(seed + 500);
    EngineOptions options = traffic.options();
    if (seed % 3 == 0)
      options.max_running_requests = options.max_logits_rows = 20;  // nobody waits for a place
    if (seed % 2 == 0) options.max_total_tokens *= 4;
    const Waves waves = random_waves(traffic, options, seed);
    for (const auto& wave : waves) requests += std::ssize(wave);
    const int64_t num_blocks = options.max_total_tokens / kBlockTokens;
    const int64_t num_spare = traffic.below(5);
    const auto poison = static_cast<int32_t>(traffic.chance(3) ? traffic.below(40) : -1);
    std::vector<std::string> expected;
    for (const bool ahead : {false, true}) {
      FakeRunner runner(RandomTraffic::kVocab, num_blocks + num_spare);
      runner.poison_token = poison;
      runner.num_spare = num_spare;
      runner.ahead = ahead;
      const std::vector<std::string> log = log_of(runner, options, waves);
      if (!ahead) {
        expected = log;
        continue;
      }
      expect_same_log(log, expected, fmt::format("seed {}", seed));
      if (HasFatalFailure()) return;
      forwards_ahead += runner.num_forwards_ahead;
    }
    uint64_t value = 0;
    const std::string& last = expected.back();
    if (std::sscanf(last.c_str() + last.find("preemptions"), "preemptions %lu", &value) == 1)
      preemptions += value;
    const size_t prompt = last.find("| prompt");
    if (std::sscanf(last.c_str() + last.find("cached", prompt), "cached %lu", &value) == 1) cached += value;
  }
  EXPECT_GT(requests, random_cases(2000));
  EXPECT_GT(forwards_ahead, random_cases(2000));
  EXPECT_GT(preemptions, kSanitized ? 0U : 20U);
  EXPECT_GT(cached, kSanitized ? 50U : 1000U);
}

GenerationRequest plain_request(const std::string& id, int64_t max_new_tokens) {
  GenerationRequest r;
  r.id = id;
  r.prompt_ids = {1, 2, 3};
  r.sampling.max_new_tokens = max_new_tokens;
  r.sampling.seed = 3;
  return r;
}

EngineOptions plain_options() {
  EngineOptions options;
  options.max_total_tokens = 16 * kBlockTokens;
  options.max_running_requests = 8;
  options.max_context_len = 400;
  return options;
}

// A full cache, of which nothing is evicted earlier, and a sequence that ends where a block ends.
TEST(EngineAhead, EverySteadyStepIsPlannedAhead) {
  FakeRunner runner(40, 18);
  runner.ahead = true;
  runner.num_spare = 2;
  const auto log = log_of(runner, plain_options(), {{{plain_request("a", 100)}}});
  EXPECT_EQ(runner.num_steps, 100) << "its end is known ahead";
  EXPECT_EQ(runner.num_forwards_ahead, 99) << "all but the first";
}

TEST(EngineAhead, CanBeSwitchedOff) {
  FakeRunner runner(40, 16);
  runner.ahead = true;
  EngineOptions options = plain_options();
  options.overlap_schedule = false;
  log_of(runner, options, {{{plain_request("a", 20)}}});
  EXPECT_EQ(runner.num_steps, 20);
  EXPECT_EQ(runner.num_forwards_ahead, 0);
}

TEST(EngineAhead, AStepThatFailsEndsNoRequestThatEndsBeforeIt) {
  for (const int64_t failing : {0, 1, 7, 19, 20}) {
    std::vector<std::string> expected;
    for (const bool ahead : {false, true}) {
      FakeRunner runner(40, 16);
      runner.ahead = ahead;
      runner.throw_on_step = failing;
      const auto log = log_of(runner, plain_options(), {{{plain_request("a", 20)}, {plain_request("b", 7)}}});
      if (!ahead)
        expected = log;
      else
        expect_same_log(log, expected, fmt::format("step {}", failing));
    }
  }
}

// Many requests of a small model that is slow and really asynchronous, on one rank and on several.
TEST(EngineAhead, OnTheReferenceDevice) {
  for (const auto& [tp_size, dp_size] : {std::pair(1, 1), std::pair(2, 2)}) {
    LoadOptions load;
    load.config = small_config();
    load.load_format = "dummy";
    load.device = "ref";
    load.threads = 1;
    load.max_total_tokens = 1024;
    load.max_running_requests = 8;
    load.show_progress = false;
    load.parallel.strategy.tp_size = tp_size;
    load.parallel.strategy.dp_size = dp_size;
    load.parallel.strategy.ep_size = tp_size * dp_size;
    LoadedModel model = LoadedModel::load(load);
    ASSERT_TRUE(model.runner().runs_ahead());
    RandomTraffic traffic(7);
    EngineOptions options;
    options.max_total_tokens = model.info().max_total_tokens;
    options.max_running_requests = load.max_running_requests;
    options.max_context_len = 100;
    options.eos_token_ids = {5};
    Waves waves = random_waves(traffic, options, 7);
    waves.resize(1);
    waves[0].resize(8);
    for (Request& r : waves[0]) {
      SamplingParams& params = r.request.sampling;
      params.max_new_tokens = 4 + params.max_new_tokens % 16;
      params.min_new_tokens %= 4;
    }
    options.overlap_schedule = false;
    const auto expected = log_of(model.runner(), options, waves);
    options.overlap_schedule = true;
    expect_same_log(log_of(model.runner(), options, waves), expected,
                    fmt::format("tp {} dp {}", tp_size, dp_size));
  }
}

}  // namespace
}  // namespace chorale::engine
