// Whatever the engine does with chunks, blocks, cached prefixes and preemption: every request answers what it
// would answer alone.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/recorder.h"

namespace chorale::engine {
namespace {

constexpr int64_t kVocab = 40;

class RandomTraffic {
 public:
  explicit RandomTraffic(uint32_t seed) : random_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool chance(int64_t one_in) { return below(one_in) == 0; }

  EngineOptions options() {
    EngineOptions o;
    o.max_total_tokens = (2 + below(14)) * kBlockTokens;
    o.chunked_prefill_size = 1 + below(chance(2) ? 10 : 200);
    o.max_running_requests = 1 + below(10);
    o.max_logits_rows = o.max_running_requests + below(4);
    o.max_context_len = 20 + below(400);
    o.enable_prefix_cache = !chance(4);
    o.eos_token_ids = {static_cast<int32_t>(below(kVocab))};
    return o;
  }

  GenerationRequest request(const std::string& id, const EngineOptions& o) {
    GenerationRequest r;
    r.id = id;
    const int64_t longest = std::min({o.max_context_len - 1, o.max_total_tokens, int64_t{200}});
    const int64_t num_prompt = 1 + below(chance(2) ? std::min<int64_t>(longest, 40) : longest);
    // One of three conversations, cut off anywhere: prefixes are often shared.
    const int64_t conversation = below(3);
    for (int64_t i = 0; i < num_prompt; ++i) {
      r.prompt_ids.push_back(static_cast<int32_t>((i * i + i / 7 + conversation) % kVocab));
    }
    if (chance(3)) r.prompt_ids.back() = static_cast<int32_t>(below(kVocab));
    SamplingParams& p = r.sampling;
    p.max_new_tokens = 1 + below(120);
    p.min_new_tokens = chance(3) ? below(p.max_new_tokens) : 0;
    p.temperature = chance(3) ? 0 : 0.2 + static_cast<double>(below(20)) / 10;
    if (chance(3)) p.top_k = 1 + below(kVocab);
    if (chance(3)) p.top_p = 0.8;
    if (chance(4)) p.min_p = 0.05;
    if (chance(3)) p.repetition_penalty = 1.2;
    if (chance(4)) p.frequency_penalty = 0.4;
    if (chance(4)) p.presence_penalty = -0.4;
    p.ignore_eos = !chance(3);
    p.seed = static_cast<uint64_t>(below(4));
    p.choice_index = static_cast<uint32_t>(below(2));
    if (chance(3)) r.num_top_logprobs = static_cast<int32_t>(below(5));
    if (chance(4)) r.prompt_logprobs_start = below(num_prompt + 1);
    return r;
  }

 private:
  std::mt19937_64 random_;
};

// Aborted requests have told a prefix of their answer.
void expect_answer(const Record& record, const Answer& alone, const std::string& what) {
  ASSERT_TRUE(record.done) << what;
  EXPECT_FALSE(record.listener_alive) << what;
  if (record.answer.finish != FinishReason::aborted) return expect_same(record.answer, alone, what);
  ASSERT_LE(record.answer.tokens.size(), alone.tokens.size()) << what;
  EXPECT_TRUE(std::equal(record.answer.tokens.begin(), record.answer.tokens.end(), alone.tokens.begin()))
      << what;
}

void expect_clean(Engine& engine, const EngineOptions& options) {
  ASSERT_TRUE(engine.wait_idle(120));
  engine.flush_prefix_cache();
  ASSERT_TRUE(engine.wait_idle(120));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.kv_tokens_used, 0);
  EXPECT_EQ(stats.kv_tokens_cached, 0);
  EXPECT_EQ(stats.kv_tokens_total, options.max_total_tokens);
  EXPECT_FALSE(stats.failed);
}

TEST(EngineProperty, EveryRequestAnswersAsAlone) {
  uint64_t preemptions = 0;
  uint64_t cached = 0;
  uint64_t aborted = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    RandomTraffic traffic(seed);
    const EngineOptions options = traffic.options();
    FakeRunner runner(kVocab, options.max_total_tokens / kBlockTokens);
    Recorder recorder;
    std::vector<GenerationRequest> requests;
    {
      Engine engine(runner, options);
      for (int i = 0; i < 25; ++i) {
        requests.push_back(traffic.request(fmt::format("r{}", i), options));
        const auto error = engine.submit(requests.back(), recorder.listener(requests.back().id));
        ASSERT_FALSE(error.has_value()) << error->message;
        if (traffic.chance(4)) recorder.wait_tokens(fmt::format("r{}", traffic.below(i + 1)), 1);
        if (traffic.chance(6)) engine.abort(fmt::format("r{}", traffic.below(i + 1)));
        if (traffic.chance(10)) engine.flush_prefix_cache();
      }
      expect_clean(engine, options);
      const EngineStats stats = engine.stats();
      EXPECT_EQ(stats.finished_stop + stats.finished_length + stats.finished_aborted, requests.size());
      preemptions += stats.preemptions;
      cached += stats.cached_tokens;
      aborted += stats.finished_aborted;
    }
    for (const GenerationRequest& r : requests) {
      expect_answer(recorder.get(r.id), answer_alone(runner, r, options),
                    fmt::format("seed {} request {}", seed, r.id));
    }
    EXPECT_LE(runner.max_rows_seen, options.max_logits_rows);
    EXPECT_LE(runner.max_tokens_seen, options.chunked_prefill_size + options.max_running_requests);
  }
  EXPECT_GT(preemptions, 20u);
  EXPECT_GT(cached, 1000u);
  EXPECT_GT(aborted, 20u);
}

TEST(EngineProperty, ManyThreadsSubmitAndAbort) {
  RandomTraffic seeds(77);
  EngineOptions options = seeds.options();
  options.max_total_tokens = 12 * kBlockTokens;
  options.max_running_requests = options.max_logits_rows = 6;
  options.max_context_len = 300;
  options.chunked_prefill_size = 50;
  FakeRunner runner(kVocab, options.max_total_tokens / kBlockTokens);
  Recorder recorder;
  constexpr int kThreads = 6;
  constexpr int kRequests = 30;
  std::vector<std::vector<GenerationRequest>> requests(kThreads);
  {
    Engine engine(runner, options);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        RandomTraffic traffic(static_cast<uint32_t>(1000 + t));
        for (int i = 0; i < kRequests; ++i) {
          const std::string id = fmt::format("{}/{}", t, i);
          requests[static_cast<size_t>(t)].push_back(traffic.request(id, options));
          EXPECT_FALSE(
              engine.submit(requests[static_cast<size_t>(t)].back(), recorder.listener(id)).has_value());
          if (traffic.chance(5)) engine.abort(id);
          if (traffic.chance(5)) recorder.wait(id);
          if (traffic.chance(9)) engine.flush_prefix_cache();
          EXPECT_LE(engine.stats().running, options.max_running_requests);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    expect_clean(engine, options);
  }
  for (const auto& mine : requests) {
    for (const GenerationRequest& r : mine) {
      expect_answer(recorder.get(r.id), answer_alone(runner, r, options), r.id);
    }
  }
}

}  // namespace
}  // namespace chorale::engine
