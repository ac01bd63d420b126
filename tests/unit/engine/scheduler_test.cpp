#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "unit/engine/fake_runner.h"

namespace chorale::engine {
namespace {

// A scheduler with its sequences, stepped by hand. Every computed sequence's next token is its length, so
// that no two prompts share a prefix by accident.
class Bench {
 public:
  Bench(int64_t num_blocks, SchedulerOptions options, bool prefix_cache = true)
      : blocks(num_blocks, prefix_cache), scheduler(blocks, options), runner(2, num_blocks) {}

  // Prompts start with `first`, so equal `first` means a shared prefix.
  Sequence& add(int64_t num_prompt, int32_t first, int64_t prompt_logprobs_start = -1,
                uint64_t submission = 0) {
    GenerationRequest request;
    request.prompt_ids.resize(static_cast<size_t>(num_prompt));
    std::iota(request.prompt_ids.begin(), request.prompt_ids.end(), first);
    request.prompt_logprobs_start = prompt_logprobs_start;
    auto sequence = std::make_unique<Sequence>(std::move(request), EventListener());
    sequence->arrival = sequences.size();
    sequence->submission = submission;
    sequence->max_output = 1000;
    scheduler.add(*sequence);
    sequences.push_back(std::move(sequence));
    return *sequences.back();
  }

  // One step. Returns (sequence -> tokens) as planned.
  std::map<const Sequence*, int64_t> step() {
    const ScheduledStep& step = scheduler.schedule();
    scheduler.check_invariants();
    std::map<const Sequence*, int64_t> planned;
    if (step.sequences.empty()) return planned;
    check_rows(step);
    runner.run(step.plan);
    scheduler.commit();
    scheduler.check_invariants();
    for (const ScheduledSequence& s : step.sequences) {
      planned[s.sequence] = s.num_tokens;
      if (s.sequence->next_prompt_logprob < s.sequence->num_prompt) {
        s.sequence->next_prompt_logprob = std::min(s.sequence->num_computed + 1, s.sequence->num_prompt);
      }
      if (s.sequence->num_remaining() == 0) {
        s.sequence->tokens.push_back(static_cast<int32_t>(s.sequence->num_tokens()));
      }
    }
    return planned;
  }

  void check_rows(const ScheduledStep& step) {
    int64_t rows = 0;
    for (size_t i = 0; i < step.sequences.size(); ++i) {
      const ScheduledSequence& s = step.sequences[i];
      const SequenceChunk& chunk = step.plan.chunks[i];
      EXPECT_EQ(s.num_tokens, chunk.num_tokens);
      EXPECT_EQ(s.first_row, rows);
      rows += s.num_rows;
      for (int64_t r = 0; r < s.num_rows; ++r) {
        EXPECT_EQ(step.plan.logits_tokens[static_cast<size_t>(s.first_row + r)],
                  chunk.first_token + chunk.num_tokens - s.num_rows + r);
      }
    }
    EXPECT_EQ(rows, static_cast<int64_t>(step.plan.logits_tokens.size()));
  }

  BlockManager blocks;
  Scheduler scheduler;
  FakeRunner runner;
  std::vector<std::unique_ptr<Sequence>> sequences;
};

using Plan = std::map<const Sequence*, int64_t>;
constexpr SchedulerOptions kOptions{
    .chunked_prefill_size = 64, .max_running_requests = 8, .max_logits_rows = 8};

TEST(Scheduler, EmptyWithoutSequences) {
  Bench bench(4, kOptions);
  EXPECT_TRUE(bench.step().empty());
}

TEST(Scheduler, SplitsPromptsIntoChunksInOrderOfArrival) {
  Bench bench(32, kOptions);
  Sequence& a = bench.add(100, 1000);
  Sequence& b = bench.add(50, 2000);
  Sequence& c = bench.add(10, 3000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 36}, {&b, 28}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 22}, {&c, 10}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 1}, {&c, 1}}));
}

TEST(Scheduler, DecodesComeFirstAndDoNotUseThePrefillBudget) {
  Bench bench(32, {.chunked_prefill_size = 1, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(1, 1000);
  Sequence& b = bench.add(3, 2000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 1}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 1}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 1}}));
  EXPECT_EQ(b.num_output(), 1);
}

TEST(Scheduler, LimitsRunningRequests) {
  Bench bench(32, {.chunked_prefill_size = 512, .max_running_requests = 2, .max_logits_rows = 2});
  Sequence& a = bench.add(5, 1000);
  Sequence& b = bench.add(5, 2000);
  Sequence& c = bench.add(5, 3000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 5}, {&b, 5}}));
  EXPECT_EQ(bench.scheduler.num_waiting(), 1);
  bench.scheduler.remove(a);
  EXPECT_EQ(bench.step(), (Plan{{&b, 1}, {&c, 5}}));
}

TEST(Scheduler, NobodyOvertakesAHeadThatDoesNotFit) {
  Bench bench(4, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(64, 1000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
  Sequence& b = bench.add(96, 2000);  // needs three blocks, two are left
  Sequence& c = bench.add(2, 3000);   // would fit
  for (int i = 0; i < 10; ++i) EXPECT_EQ(bench.step(), (Plan{{&a, 1}}));
  bench.scheduler.remove(a);
  EXPECT_EQ(bench.step(), (Plan{{&b, 96}})) << "the last block is left for b to grow into, so c waits";
  bench.scheduler.remove(b);
  EXPECT_EQ(bench.step(), (Plan{{&c, 2}}));
}

TEST(Scheduler, LeavesRoomOnlyForSequencesThatMayGrow) {
  Bench bench(3, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(10, 1000);
  Sequence& b = bench.add(64, 2000);
  a.max_output = 24;  // 33 tokens are computed: a second block
  EXPECT_EQ(bench.step(), (Plan{{&a, 10}}));
  a.max_output = 23;  // 32 tokens are computed
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 64}}));
}

TEST(Scheduler, PreemptsTheLatestAndTakesItBackFirst) {
  Bench bench(5, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8}, false);
  Sequence& a = bench.add(32, 1000);
  Sequence& b = bench.add(31, 2000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 32}, {&b, 31}}));
  Sequence& c = bench.add(2, 3000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 1}})) << "c would leave nothing to grow into";
  Sequence* latest = &b;
  while (bench.scheduler.counters().preemptions == 0) {
    ASSERT_LE(a.num_tokens(), 5 * kBlockTokens);
    bench.step();
  }
  EXPECT_EQ(latest->phase, Phase::waiting);
  EXPECT_TRUE(b.blocks.empty());
  EXPECT_EQ(a.phase, Phase::running);
  EXPECT_EQ(c.phase, Phase::waiting);
  bench.scheduler.remove(a);
  const int64_t recomputed = b.num_tokens();
  const Plan plan = bench.step();
  EXPECT_EQ(plan.at(&b), recomputed);
  EXPECT_TRUE(plan.contains(&c));
}

TEST(Scheduler, TakesAllButTheLastPromptTokenFromTheCache) {
  Bench bench(16, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(96, 1000);
  bench.step();
  Sequence& b = bench.add(96, 1000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 32}}));
  EXPECT_EQ(b.num_cached, 64);
  Sequence& c = bench.add(97, 1000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 1}, {&c, 1}}));
  EXPECT_EQ(c.num_cached, 96);
  EXPECT_EQ(bench.scheduler.counters().prompt_tokens, 96u + 96u + 97u);
  EXPECT_EQ(bench.scheduler.counters().cached_tokens, 64u + 96u);
}

TEST(Scheduler, APromptThatArrivesManyTimesIsComputedOnce) {
  Bench bench(32, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(100, 1000);
  Sequence& b = bench.add(100, 1000);
  Sequence& c = bench.add(100, 1000);
  Sequence& d = bench.add(20, 1000);  // less than a block: nothing to wait for but its turn
  EXPECT_EQ(bench.step(), (Plan{{&a, 100}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 1}, {&b, 4}, {&c, 4}, {&d, 20}}));
  EXPECT_EQ(bench.scheduler.counters().cached_tokens, 2u * 96);
}

TEST(Scheduler, WithoutAPrefixCacheEqualPromptsRunSideBySide) {
  Bench bench(32, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8}, false);
  Sequence& a = bench.add(100, 1000);
  Sequence& b = bench.add(100, 1000);
  EXPECT_EQ(bench.step(), (Plan{{&a, 100}, {&b, 100}}));
}

TEST(Scheduler, GeneratedTokensAreCachedToo) {
  Bench bench(16, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(30, 1000);
  while (a.num_computed < 64) bench.step();
  auto tokens = a.tokens;
  bench.scheduler.remove(a);
  GenerationRequest request;
  request.prompt_ids = tokens;
  Sequence b(std::move(request), EventListener());
  b.arrival = 100;
  bench.scheduler.add(b);
  bench.step();
  EXPECT_EQ(b.num_cached, 64);
  bench.scheduler.remove(b);
}

TEST(Scheduler, PromptLogprobsAreBoundedByRowsAndLimitTheCachedPrefix) {
  Bench bench(16, {.chunked_prefill_size = 512, .max_running_requests = 4, .max_logits_rows = 4});
  Sequence& a = bench.add(96, 1000);
  bench.step();
  bench.scheduler.remove(a);
  Sequence& b = bench.add(96, 1000, 90);  // positions 89..95 have rows
  EXPECT_EQ(bench.step(), (Plan{{&b, 89 + 4 - 64}}));
  EXPECT_EQ(b.num_cached, 64);
  EXPECT_EQ(bench.step(), (Plan{{&b, 3}}));
  EXPECT_EQ(b.num_output(), 1);
  bench.scheduler.remove(b);
  Sequence& c = bench.add(96, 1000, 33);  // from position 32 on
  bench.step();
  EXPECT_EQ(c.num_cached, 32);
  Sequence& d = bench.add(96, 1000, 0);
  while (d.num_cached < 0) bench.step();
  EXPECT_EQ(d.num_cached, 0);
  while (d.num_output() == 0) bench.step();
  EXPECT_LE(bench.runner.max_rows_seen, 4);
}

// A step that has been computed, and of which no token is known yet.
void begin_step(Bench& bench) {
  bench.runner.run(bench.scheduler.schedule().plan);
  bench.scheduler.commit();
}

TEST(Scheduler, PlansAStepWhoseTokensAreBeingChosen) {
  Bench bench(8, {.chunked_prefill_size = 20, .max_running_requests = 8, .max_logits_rows = 8});
  Sequence& a = bench.add(5, 1000);
  Sequence& b = bench.add(30, 2000);
  begin_step(bench);
  const ScheduledStep* ahead = bench.scheduler.schedule_ahead();
  ASSERT_NE(ahead, nullptr);
  EXPECT_EQ(ahead->plan.chunks.size(), 2u);
  EXPECT_EQ(ahead->plan.chunks[0].first_position, 5);
  EXPECT_EQ(ahead->plan.token_ids.size(), 16u) << "one token of a, what is left of b";
  EXPECT_EQ(ahead->plan.sampled_rows[0], 0);
  EXPECT_EQ(std::ranges::count(ahead->plan.sampled_rows, -1), 15);
  EXPECT_EQ(ahead->plan.logits_tokens, (std::vector<int32_t>{0, 15}));
  bench.scheduler.check_invariants();
  a.tokens.push_back(7);
  EXPECT_TRUE(bench.scheduler.begin_ahead());
  bench.scheduler.commit();
  bench.scheduler.check_invariants();
  EXPECT_EQ(a.num_computed, 6);
  EXPECT_EQ(b.num_computed, 30);
}

TEST(Scheduler, ASequenceThatEndsLeavesTheStepThatWasPlannedAhead) {
  Bench bench(8, kOptions);
  Sequence& a = bench.add(kBlockTokens, 1000);  // the next token begins a block
  Sequence& b = bench.add(5, 2000);
  begin_step(bench);
  const ScheduledStep* ahead = bench.scheduler.schedule_ahead();
  ASSERT_NE(ahead, nullptr);
  EXPECT_EQ(a.blocks.size(), 2u);
  EXPECT_EQ(bench.blocks.num_used(), 2) << "the new block does not count yet";
  bench.scheduler.remove(a);
  EXPECT_EQ(ahead->sequences[0].sequence, nullptr);
  EXPECT_EQ(bench.blocks.num_used(), 1);
  EXPECT_TRUE(bench.scheduler.begin_ahead());
  bench.scheduler.commit();
  b.tokens.push_back(7);
  EXPECT_EQ(bench.blocks.num_used(), 1);
  ASSERT_NE(bench.scheduler.schedule_ahead(), nullptr);
  bench.scheduler.remove(b);
  EXPECT_FALSE(bench.scheduler.begin_ahead()) << "nobody is left";
  EXPECT_EQ(bench.blocks.num_used(), 0);
}

TEST(Scheduler, ASequenceWhoseEndIsKnownIsNotPlannedAhead) {
  Bench bench(8, kOptions);
  Sequence& a = bench.add(5, 1000);
  a.max_output = 2;
  begin_step(bench);
  ASSERT_NE(bench.scheduler.schedule_ahead(), nullptr);
  a.tokens.push_back(7);
  ASSERT_TRUE(bench.scheduler.begin_ahead());
  bench.scheduler.commit();
  const ScheduledStep* ahead = bench.scheduler.schedule_ahead();
  ASSERT_NE(ahead, nullptr);
  EXPECT_TRUE(ahead->sequences.empty());
}

TEST(Scheduler, PlansNothingAheadThatAnEndWouldChange) {
  Bench bench(3, {.chunked_prefill_size = 512, .max_running_requests = 2, .max_logits_rows = 2});
  Sequence& a = bench.add(kBlockTokens, 1000);
  begin_step(bench);
  Sequence& waiting = bench.add(5, 2000);
  EXPECT_EQ(bench.scheduler.schedule_ahead(), nullptr) << "somebody waits for a place";
  bench.scheduler.remove(waiting);
  ASSERT_NE(bench.scheduler.schedule_ahead(), nullptr);
  bench.scheduler.drop_ahead();
  EXPECT_EQ(a.blocks.size(), 1u) << "as if it had not been planned";
  a.tokens.push_back(7);
  Sequence& scored = bench.add(5, 3000, 0);
  begin_step(bench);
  EXPECT_EQ(bench.scheduler.schedule_ahead(), nullptr) << "log probabilities of a prompt are due";
  bench.scheduler.remove(scored);
}

TEST(Scheduler, PlansNothingAheadWhenABlockIsShort) {
  Bench bench(1, kOptions);
  Sequence& a = bench.add(kBlockTokens, 1000);
  begin_step(bench);
  EXPECT_EQ(bench.scheduler.schedule_ahead(), nullptr);
  EXPECT_EQ(a.blocks.size(), 1u);
  bench.scheduler.check_invariants();
}

// Steps until the sequence has its first token.
int steps_to_first_token(Bench& bench, const Sequence& sequence) {
  int steps = 0;
  for (; sequence.num_output() == 0 && steps < 1000; ++steps) bench.step();
  return steps;
}

TEST(Scheduler, ABatchOfPromptsDoesNotHoldUpOthers) {
  for (const SchedulePolicy policy : {SchedulePolicy::fair, SchedulePolicy::fcfs}) {
    Bench bench(
        512,
        {.policy = policy, .chunked_prefill_size = 64, .max_running_requests = 64, .max_logits_rows = 64});
    for (int i = 0; i < 40; ++i) bench.add(192, 1000 * i, -1, 1);
    bench.step();
    const Sequence& second = bench.add(10, 100'000, -1, 2);
    const Sequence& third = bench.add(10, 200'000, -1, 3);
    if (policy == SchedulePolicy::fair) {
      EXPECT_LE(steps_to_first_token(bench, second), 5) << "it waits for a turn of the batch";
      EXPECT_LE(steps_to_first_token(bench, third), 1);
    } else {
      EXPECT_GE(steps_to_first_token(bench, second), 119) << "first come, first served";
    }
  }
}

TEST(Scheduler, PromptsOfUsualLengthsAreNotInterleaved) {
  Bench bench(64, kOptions);
  Sequence& a = bench.add(200, 1000, -1, 1);
  Sequence& b = bench.add(200, 2000, -1, 2);
  EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 8}, {&b, 56}}));
}

TEST(Scheduler, LongPromptsTakeTurns) {
  Bench bench(64, kOptions);
  Sequence& a = bench.add(600, 1000, -1, 1);
  Sequence& b = bench.add(600, 2000, -1, 2);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(bench.step(), (Plan{{&b, 64}}));
  EXPECT_EQ(bench.step(), (Plan{{&a, 64}}));
}

TEST(Scheduler, AFewOvertakeOneThatDoesNotFitAndNoMore) {
  Bench bench(40, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8}, false);
  Sequence& first = bench.add(200, 0, -1, 1);
  first.max_output = 1000;
  bench.step();
  Sequence& large = bench.add(1280, 10'000, -1, 2);  // all blocks
  int overtakers = 0;
  for (int i = 0; i < 100; ++i) {
    Sequence& small = bench.add(8, 100'000 + 100 * i, -1, static_cast<uint64_t>(10 + i));
    small.max_output = 2;
    bench.step();
    bench.step();
    if (small.num_output() > 0) ++overtakers;
    bench.scheduler.remove(small);
  }
  EXPECT_EQ(overtakers, 16);
  bench.scheduler.remove(first);
  EXPECT_LE(steps_to_first_token(bench, large), 3);
}

TEST(Scheduler, RandomSubmissionsKeepInvariantsAndNobodyStarves) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint32_t>(n)); };
    const int64_t num_blocks = 4 + below(12);
    const int64_t max_running = 1 + below(6);
    Bench bench(num_blocks,
                {.chunked_prefill_size = 1 + below(100),
                 .max_running_requests = max_running,
                 .max_logits_rows = max_running + below(3)},
                below(4) != 0);
    std::set<Sequence*> live;
    uint64_t submission = 0;
    for (int i = 0; i < 20'000 && (i < 300 || !live.empty()); ++i) {
      if (i < 300 && below(8) == 0 && live.size() < 30) {
        ++submission;
        for (int64_t k = below(6); k >= 0; --k) {
          live.insert(&bench.add(1 + below(120), static_cast<int32_t>(below(3)) * 1000, -1, submission));
        }
      }
      EXPECT_EQ(bench.step().empty(), live.empty());
      std::erase_if(live, [&](Sequence* s) {
        const bool ends = s->num_output() > s->num_prompt % 50 ||
                          s->num_tokens() > num_blocks * kBlockTokens || (i < 300 && below(300) == 0);
        if (ends) bench.scheduler.remove(*s);
        return ends;
      });
    }
    EXPECT_TRUE(live.empty()) << "seed " << seed;
    for (Sequence* s : live) bench.scheduler.remove(*s);
    EXPECT_EQ(bench.blocks.num_used(), 0);
  }
}

TEST(Scheduler, RootsShareNoBlocks) {
  Bench bench(16, {.chunked_prefill_size = 512, .max_running_requests = 8, .max_logits_rows = 8});
  bench.add(96, 1000).cache_root = {1, 1};
  bench.step();
  Sequence& other = bench.add(96, 1000);
  other.cache_root = {2, 1};
  bench.step();
  EXPECT_EQ(other.num_cached, 0);
  Sequence& same = bench.add(96, 1000);
  same.cache_root = {1, 1};
  bench.step();
  EXPECT_EQ(same.num_cached, 64);
}

// Hundreds of random arrivals, removals and tiny caches; the invariants are checked around every step, and
// the fake model checks every plan.
TEST(Scheduler, RandomTrafficKeepsOrderAndInvariants) {
  uint64_t preemptions = 0;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint32_t>(n)); };
    const int64_t num_blocks = 3 + below(12);
    const int64_t max_running = 1 + below(6);
    const SchedulerOptions options{.chunked_prefill_size = 1 + below(100),
                                   .max_running_requests = max_running,
                                   .max_logits_rows = max_running + below(3)};
    Bench bench(num_blocks, options, below(4) != 0);
    std::set<Sequence*> live;
    std::set<const Sequence*> started;
    for (int i = 0; i < 400; ++i) {
      if (below(4) == 0 && live.size() < 20) {
        const int64_t capacity = num_blocks * kBlockTokens;
        const int64_t num_prompt = 1 + below(std::min<int64_t>(capacity, 120));
        live.insert(&bench.add(num_prompt, static_cast<int32_t>(below(3)) * 1000, below(num_prompt + 1) - 1));
      }
      const Plan plan = bench.step();
      EXPECT_EQ(plan.empty(), live.empty());
      Sequence* oldest = nullptr;
      for (Sequence* s : live) {
        if (oldest == nullptr || s->arrival < oldest->arrival) oldest = s;
      }
      // The oldest always advances, and who has started is never later than who has not.
      EXPECT_TRUE(oldest == nullptr || plan.contains(oldest));
      for (const auto& [s, n] : plan) started.insert(s);
      for (const Sequence* waiting : live) {
        if (started.contains(waiting)) continue;
        for (const Sequence* s : started) EXPECT_LT(s->arrival, waiting->arrival);
      }
      for (auto it = live.begin(); it != live.end();) {
        Sequence* s = *it;
        if (s->num_tokens() > num_blocks * kBlockTokens || s->num_output() > 150 || below(300) == 0) {
          bench.scheduler.remove(*s);
          it = live.erase(it);
        } else {
          ++it;
        }
      }
    }
    for (Sequence* s : live) bench.scheduler.remove(*s);
    EXPECT_EQ(bench.blocks.num_used(), 0);
    EXPECT_EQ(bench.blocks.num_available(), num_blocks);
    bench.blocks.check_invariants({});
    bench.blocks.flush();
    EXPECT_EQ(bench.blocks.num_free(), num_blocks);
    EXPECT_LE(bench.runner.max_rows_seen, options.max_logits_rows);
    EXPECT_LE(bench.runner.max_tokens_seen, options.chunked_prefill_size + options.max_running_requests);
    preemptions += bench.scheduler.counters().preemptions;
  }
  EXPECT_GT(preemptions, 50u);
}

}  // namespace
}  // namespace chorale::engine
