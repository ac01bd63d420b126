// Whatever the engine does with chunks, blocks, cached prefixes and preemption: every request answers what it
// would answer alone.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/random_traffic.h"
#include "unit/engine/recorder.h"
#include "unit/random_cases.h"

namespace chorale::engine {
namespace {

constexpr int64_t kVocab = RandomTraffic::kVocab;

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
  for (uint32_t seed = 0; seed < static_cast<uint32_t>(random_cases(60)); ++seed) {
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
  EXPECT_GT(preemptions, kSanitized ? 5U : 20U);
  EXPECT_GT(cached, kSanitized ? 100U : 1000U);
  EXPECT_GT(aborted, kSanitized ? 5U : 20U);
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
