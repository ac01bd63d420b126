#include "tools/simulate/simulation.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "engine/engine.h"
#include "tools/simulate/report.h"

namespace chorale::simulate {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kVocab = 1000;

// A list of requests, in order of arrival.
class ListSource : public RequestSource {
 public:
  explicit ListSource(std::vector<SimulatedRequest> requests) : requests_(std::move(requests)) {}
  bool next(SimulatedRequest& request) override {
    if (index_ == requests_.size()) return false;
    request = requests_[index_++];
    return true;
  }

 private:
  std::vector<SimulatedRequest> requests_;
  size_t index_ = 0;
};

SimulatedRequest request_at(Time arrival, int64_t prompt_tokens, int64_t output_tokens, int32_t token = 1) {
  return {.arrival = arrival,
          .prompt_ids = std::vector<int32_t>(static_cast<size_t>(prompt_tokens), token),
          .output_tokens = output_tokens};
}

SimulationOptions small_options() {
  SimulationOptions options;
  options.engine.max_total_tokens = 64 * engine::kBlockTokens;
  options.engine.max_context_len = 512;
  options.engine.chunked_prefill_size = 32;
  options.engine.max_running_requests = 8;
  options.shape.vocab_size = kVocab;
  return options;
}

double one_millisecond(const parallel::StepLoad&) {
  return 1e-3;
}

SimulationResult run(const SimulationOptions& options, std::vector<SimulatedRequest> requests,
                     const StepSeconds& step_seconds = one_millisecond) {
  ListSource source(std::move(requests));
  return simulate(options, step_seconds, source);
}

// What a step takes grows with its tokens and with what they attend to.
double by_load(const parallel::StepLoad& load) {
  double seconds = 2e-4;
  for (const parallel::GroupLoad& group : load.groups)
    seconds += 1e-5 * static_cast<double>(group.tokens) + 1e-8 * static_cast<double>(group.attended_tokens);
  return seconds;
}

SimulationResult run_random(const SimulationOptions& options, const std::string& workload, const char* rate,
                            uint64_t seed = 1) {
  RandomRequests shape = parse_random_requests(workload);
  shape.range_ratio = 0.2;
  const auto source = random_source(
      shape,
      {.vocab_size = kVocab, .seed = seed, .rate = RateProfile::parse(rate), .duration = std::nullopt});
  return simulate(options, by_load, *source);
}

// 70 prompt tokens are three chunks of 32, 32 and 6: the first token comes with the third step, at 3 ms, and
// four more by 7 ms.
TEST(Simulation, OneRequestTakesTheStepsThatItNeeds) {
  const SimulationResult r = run(small_options(), {request_at(Time(0), 70, 5)});
  EXPECT_EQ(r.steps, 7);
  EXPECT_EQ(r.metrics.completed, 1);
  EXPECT_EQ(r.metrics.ttft->mean, 3);
  EXPECT_EQ(r.metrics.ttft->max, 3);
  EXPECT_EQ(r.metrics.itl->mean, 1);
  EXPECT_EQ(r.metrics.itl->max, 1);
  EXPECT_EQ(r.metrics.tpot->median, 1);
  EXPECT_EQ(r.metrics.e2e->mean, 7);
  EXPECT_EQ(r.metrics.duration, 0.007);
  EXPECT_EQ(r.queue->max, 0);
  EXPECT_EQ(r.metrics.output_throughput, 5 / 0.007);
}

// The second comes at 0.25 ms, while the first one's step runs, and waits for its end: 0.75 ms in the queue,
// and its token at 2 ms, which is 1.75 after it was sent.
TEST(Simulation, WhoComesDuringAStepWaitsForItsEnd) {
  const SimulationResult r = run(
      small_options(), {request_at(Time(0), 8, 4, 1), request_at(std::chrono::microseconds(250), 8, 1, 2)});
  EXPECT_EQ(r.metrics.ttft->mean, (1 + 1.75) / 2);
  EXPECT_EQ(r.metrics.ttft->max, 1.75);
  EXPECT_EQ(r.queue->mean, 0.75 / 2);
  EXPECT_EQ(r.metrics.e2e->max, 4);
  EXPECT_EQ(r.steps, 4);
}

// Idle from 1 to 10 ms.
TEST(Simulation, AnIdleReplicaBeginsAtOnce) {
  const SimulationResult r =
      run(small_options(), {request_at(Time(0), 8, 1, 1), request_at(milliseconds(10), 8, 1, 2)});
  EXPECT_EQ(r.metrics.ttft->mean, 1);
  EXPECT_EQ(r.metrics.ttft->max, 1);
  EXPECT_EQ(r.metrics.duration, 0.011);
  EXPECT_DOUBLE_EQ(r.mean_running * r.metrics.duration, 0.002);
}

// One at a time: the second is sent when the first has ended.
TEST(Simulation, ClientsHoldBackBeyondTheirConcurrency) {
  SimulationOptions options = small_options();
  options.max_concurrency = 1;
  const SimulationResult r = run(options, {request_at(Time(0), 8, 3, 1), request_at(Time(0), 8, 3, 2)});
  EXPECT_EQ(r.metrics.peak_concurrency, 1);
  EXPECT_EQ(r.metrics.ttft->max, 1);
  EXPECT_EQ(r.metrics.e2e->max, 3);
  EXPECT_EQ(r.metrics.duration, 0.006);
}

// Four requests of 2, 20, 2 and 20 tokens: in turn, the long ones meet on the second replica; by load, the
// fourth goes where the short ones have ended.
TEST(Simulation, TheRouterChoosesTheReplica) {
  SimulationOptions options = small_options();
  options.num_replicas = 2;
  options.engine.max_running_requests = 1;
  const std::vector<SimulatedRequest> requests = {request_at(Time(0), 8, 2, 1), request_at(Time(0), 8, 20, 2),
                                                  request_at(milliseconds(5), 8, 2, 3),
                                                  request_at(milliseconds(10), 8, 20, 4)};
  options.router = Router::round_robin;
  EXPECT_EQ(run(options, requests).metrics.duration, 0.040);
  options.router = Router::least_loaded;
  EXPECT_EQ(run(options, requests).metrics.duration, 0.030);
  EXPECT_EQ(parse_router(name_of(Router::round_robin)), Router::round_robin);
}

TEST(Simulation, FullQueuesRefuse) {
  SimulationOptions options = small_options();
  options.engine.max_running_requests = 1;
  options.engine.max_queued_requests = 2;
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 5; ++i) requests.push_back(request_at(Time(0), 8, 2, i));
  requests.push_back(request_at(milliseconds(50), 600, 2, 7));  // longer than the context
  const SimulationResult r = run(options, requests);
  EXPECT_EQ(r.metrics.completed, 2);
  EXPECT_EQ(r.metrics.failed, 4);
  ASSERT_EQ(r.errors.size(), 2U);
  EXPECT_EQ(r.errors[0].count, 3);
  EXPECT_EQ(r.errors[1].count, 1);
}

// Prompts of one beginning are computed once.
TEST(Simulation, ThePrefixCacheIsTheEngines) {
  SimulationOptions options = small_options();
  const std::vector<SimulatedRequest> requests = {request_at(Time(0), 65, 1, 1),
                                                  request_at(milliseconds(20), 65, 1, 1)};
  const SimulationResult cached = run(options, requests);
  EXPECT_EQ(cached.cached_tokens, 64);
  EXPECT_EQ(cached.metrics.ttft->max, 3);
  EXPECT_EQ(cached.metrics.ttft->mean, 2);
  options.engine.enable_prefix_cache = false;
  const SimulationResult plain = run(options, requests);
  EXPECT_EQ(plain.cached_tokens, 0);
  EXPECT_EQ(plain.metrics.ttft->mean, 3);
}

// Under preemption, too, each request ends with as many tokens as it was to have.
TEST(Simulation, NothingIsLost) {
  for (const int64_t blocks : {8, 64}) {
    for (const int replicas : {1, 3}) {
      for (const int groups : {1, 2}) {
        SimulationOptions options = small_options();
        options.engine.max_total_tokens = blocks * engine::kBlockTokens;
        options.num_replicas = replicas;
        options.shape.num_dp_groups = groups;
        RandomRequests shape = parse_random_requests("random:300x60+40");
        shape.range_ratio = 0.2;
        const SourceOptions source{
            .vocab_size = kVocab, .seed = 4, .rate = RateProfile::parse("300"), .duration = std::nullopt};
        int64_t prompt_tokens = 0, output_tokens = 0;
        const auto counted = random_source(shape, source);
        for (SimulatedRequest request; counted->next(request);) {
          prompt_tokens += std::ssize(request.prompt_ids);
          output_tokens += request.output_tokens;
        }
        const SimulationResult r = simulate(options, by_load, *random_source(shape, source));
        const std::string what = fmt::format("{} blocks, {} replicas, {} groups", blocks, replicas, groups);
        EXPECT_EQ(r.metrics.completed, 300) << what;
        EXPECT_EQ(r.metrics.failed, 0) << what;
        EXPECT_EQ(r.metrics.input_tokens, prompt_tokens) << what;
        EXPECT_EQ(r.metrics.output_tokens, output_tokens) << what;
        EXPECT_EQ(r.kv_tokens_total, blocks * engine::kBlockTokens * groups * replicas) << what;
        EXPECT_LE(r.peak_kv_tokens, r.kv_tokens_total) << what;
        if (blocks == 8 && replicas == 1 && groups == 1) {
          EXPECT_GT(r.preemptions, 0) << what;
        }
        Window all;
        for (const Window& window : r.windows.all()) all += window;
        EXPECT_EQ(all.arrived, 300) << what;
        EXPECT_EQ(all.ended, 300) << what;
        EXPECT_EQ(all.first_tokens, 300) << what;
        EXPECT_EQ(all.output_tokens, output_tokens) << what;
        // Little's law, over the windows.
        EXPECT_NEAR(r.mean_running + r.mean_waiting, r.metrics.concurrency, 1e-9 * r.metrics.concurrency)
            << what;
      }
    }
  }
}

TEST(Simulation, MoreRequestsNeverFreeTheCache) {
  double mean = 0, waiting = 0;
  int64_t peak = 0;
  for (const char* rate : {"1", "10", "50", "200", "1000", "inf"}) {
    const SimulationResult r = run_random(small_options(), "random:200x60+40", rate);
    EXPECT_GE(r.peak_kv_tokens, peak) << rate;
    EXPECT_GE(r.mean_kv_tokens, mean) << rate;
    EXPECT_GE(r.mean_waiting, waiting) << rate;
    peak = r.peak_kv_tokens;
    mean = r.mean_kv_tokens;
    waiting = r.mean_waiting;
  }
}

std::string report_of(uint64_t seed) {
  SimulationOptions options = small_options();
  options.num_replicas = 3;
  options.shape.num_dp_groups = 2;
  SimulateReport report;
  report.model = "m";
  report.machine = "a machine";
  for (const char* name : {"one", "two"}) {
    Outcome& outcome = report.outcomes.emplace_back();
    outcome.strategy = name;
    outcome.replicas = 3;
    outcome.result = run_random(options, "random:100x60+40", "500", seed);
  }
  return report_text(report) + report_json(report, 2) + report_html(report);
}

TEST(Simulation, TheSameSeedGivesTheSameBytes) {
  const std::string first = report_of(1);
  EXPECT_EQ(first, report_of(1));
  EXPECT_NE(first, report_of(2));
}

// ---- the real engine, with its thread, on the same clock ----

// All that a model is told of a step, as text.
std::string text_of(Time time, std::span<const engine::StepPlan* const> plans) {
  std::string text = fmt::format("{}:", time.count());
  for (const engine::StepPlan* plan : plans) {
    text += " tokens";
    for (const int32_t token : plan->token_ids) text += fmt::format(" {}", token);
    text += " chunks";
    for (const engine::SequenceChunk& c : plan->chunks)
      text += fmt::format(" {}+{}@{}:{}x{}", c.first_token, c.num_tokens, c.first_position,
                          c.first_block_index, c.num_blocks);
    text += " blocks";
    for (const int32_t block : plan->block_tables) text += fmt::format(" {}", block);
    text += " rows";
    for (const int32_t row : plan->logits_tokens) text += fmt::format(" {}", row);
  }
  return text;
}

// Submits what comes while a step runs during that step.
class FeedingRunner : public SimulatedRunner {
 public:
  using SimulatedRunner::SimulatedRunner;
  void forward(std::span<const engine::StepPlan* const> plans) override {
    SimulatedRunner::forward(plans);
    feed();
  }
  std::function<void()> feed;
};

std::vector<std::string> steps_of_engine(const SimulationOptions& options,
                                         const std::vector<SimulatedRequest>& requests) {
  std::vector<std::string> steps;
  FeedingRunner runner(options.shape, by_load);
  runner.on_step = [&](std::span<const engine::StepPlan* const> plans) {
    steps.push_back(text_of(runner.now(), plans));
  };
  engine::Engine engine(runner, options.engine, runner.clock());
  size_t next = 0;
  const auto submit = [&] {
    engine::GenerationRequest request;
    request.id = fmt::format("{}", next);
    request.prompt_ids = requests[next].prompt_ids;
    request.sampling.max_new_tokens = requests[next].output_tokens;
    request.sampling.ignore_eos = true;
    request.sampling.temperature = 0;
    request.sampling.seed = random_bits(options.seed, 0, next);
    ++next;
    EXPECT_FALSE(engine.submit(std::move(request), [](const engine::GenerationEvent&) {}).has_value());
  };
  runner.feed = [&] {
    while (next < requests.size() && requests[next].arrival <= runner.now()) submit();
  };
  // The others come when nothing runs, and each wakes the engine.
  for (;;) {
    EXPECT_TRUE(engine.wait_idle(60));
    if (next == requests.size()) return steps;
    runner.set_now(requests[next].arrival);
    submit();
  }
}

TEST(Simulation, TheEngineTakesTheSameSteps) {
  for (const auto& [blocks, groups, policy] :
       {std::tuple(64, 1, engine::SchedulePolicy::fair), std::tuple(8, 1, engine::SchedulePolicy::fair),
        std::tuple(16, 2, engine::SchedulePolicy::fcfs)}) {
    SimulationOptions options = small_options();
    options.engine.max_total_tokens = blocks * engine::kBlockTokens;
    options.engine.schedule_policy = policy;
    options.shape.num_dp_groups = groups;
    options.seed = 9;
    // A burst, then some that come far apart; every third prompt begins as the others of these do.
    std::vector<SimulatedRequest> requests;
    for (int i = 0; i < 60; ++i) {
      SimulatedRequest request = request_at(std::chrono::microseconds(400 * i + (i > 50 ? 100'000 * i : 0)),
                                            5 + 13 * i % 90, 1 + 11 * i % 70, i % 3 == 0 ? 500 : i);
      request.prompt_ids.back() = i;
      requests.push_back(std::move(request));
    }
    std::vector<std::string> simulated;
    options.on_step = [&](Time time, std::span<const engine::StepPlan* const> plans) {
      simulated.push_back(text_of(time, plans));
    };
    const SimulationResult r = run(options, requests, by_load);
    options.on_step = nullptr;
    const std::vector<std::string> real = steps_of_engine(options, requests);
    EXPECT_EQ(r.steps, simulated.size());
    EXPECT_GT(r.cached_tokens, 0);
    if (blocks == 8) {
      EXPECT_GT(r.preemptions, 0);
    }
    for (size_t i = 0; i < std::min(real.size(), simulated.size()); ++i)
      ASSERT_EQ(simulated[i], real[i]) << "step " << i << " with " << blocks << " blocks";
    EXPECT_EQ(simulated.size(), real.size());
  }
}

}  // namespace
}  // namespace chorale::simulate
