// The numerics contract on the bundled model, and on a small one where the device is slow: whatever else the
// engine does in a step, a request's logits are the same bits. Log probabilities are a function of a whole
// row of logits, so where rows are not at hand those are compared.
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "parallel/strategy.h"
#include "source_dir.h"
#include "unit/engine/mixed_requests.h"
#include "unit/engine/recorder.h"
#include "unit/engine/small_config.h"
#include "unit/parallel/error_text.h"
#include "unit/random_cases.h"

namespace chorale::engine {
namespace {

// With sanitizers the loops over rows take a hundred times as long: there a few requests go every path once.
constexpr int64_t kRequests = kSanitized ? 6 : 64;

// What the numerics may depend on.
struct Mode {
  std::string dtype = "bfloat16";
  std::string quantization = "none";
  std::string kv_cache_dtype = "auto";
  std::string instruction_set = "auto";
  std::string device = "cpu";
};

LoadOptions load_options(const Mode& mode, int threads) {
  LoadOptions o;
  o.model_path = source_dir() / "models" / "tales-moe";
  o.dtype = mode.dtype;
  o.quantization = mode.quantization;
  o.kv_cache_dtype = mode.kv_cache_dtype;
  o.instruction_set = mode.instruction_set;
  o.device = mode.device;
  if (mode.device != "cpu") {
    o.model_path.clear();
    o.config = small_config();
    o.load_format = "dummy";
  }
  o.threads = threads;
  o.max_total_tokens = 16384;
  o.max_running_requests = kRequests;
  o.max_logits_rows = 256;
  o.chunked_prefill_size = 512;
  o.show_progress = false;
  return o;
}

EngineOptions engine_options(const LoadedModel& model) {
  EngineOptions o;
  o.max_total_tokens = model.info().max_total_tokens;
  o.max_context_len = model.info().max_context_len;
  o.max_running_requests = kRequests;
  o.max_logits_rows = 256;
  o.eos_token_ids = model.info().eos_token_ids;
  return o;
}

using Answers = std::map<std::string, Answer>;

struct Outcome {
  Answers answers;
  EngineStats stats;
};

// All requests at once.
Outcome run_together(LoadedModel& model, const EngineOptions& options,
                     const std::vector<GenerationRequest>& requests, int rounds = 1) {
  Recorder recorder;
  Engine engine(model.runner(), options);
  Outcome run;
  for (int round = 0; round < rounds; ++round) {
    for (const GenerationRequest& r : requests) {
      EXPECT_FALSE(engine.submit(r, recorder.listener(r.id)).has_value());
    }
    for (const GenerationRequest& r : requests) run.answers[r.id] = recorder.wait(r.id).answer;
  }
  EXPECT_TRUE(engine.wait_idle(60));
  run.stats = engine.stats();
  return run;
}

Answers run_alone(LoadedModel& model, EngineOptions options, const std::vector<GenerationRequest>& requests) {
  options.enable_prefix_cache = false;
  Recorder recorder;
  Engine engine(model.runner(), options);
  Answers answers;
  for (const GenerationRequest& r : requests) {
    EXPECT_FALSE(engine.submit(r, recorder.listener(r.id)).has_value());
    answers[r.id] = recorder.wait(r.id).answer;
  }
  return answers;
}

void expect_all_same(const Answers& actual, const Answers& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [id, answer] : expected) expect_same(actual.at(id), answer, what + ", " + id);
}

std::string name_of_mode(const testing::TestParamInfo<Mode>& info) {
  const Mode& mode = info.param;
  return mode.dtype + (mode.quantization == "none" ? "" : "_" + mode.quantization) +
         (mode.kv_cache_dtype == "auto" ? "" : "_kv_" + mode.kv_cache_dtype) +
         (mode.instruction_set == "auto" ? "" : "_" + mode.instruction_set) +
         (mode.device == "cpu" ? "" : "_" + mode.device);
}

class Numerics : public testing::TestWithParam<Mode> {};
std::vector<Mode> served_modes() {
  std::vector<Mode> modes = {Mode{}, Mode{"bfloat16", "int4", "int8"}, Mode{.device = "ref"}};
  if (kSanitized) return modes;
  modes.insert(modes.end(), {Mode{"float32"}, Mode{"bfloat16", "none", "int8"}, Mode{"bfloat16", "int8"},
                             Mode{.dtype = "float32", .device = "ref"}});
  return modes;
}
INSTANTIATE_TEST_SUITE_P(Modes, Numerics, testing::ValuesIn(served_modes()), name_of_mode);

// Each mode with each instruction set of this machine.
std::vector<Mode> all_modes() {
  std::vector<Mode> modes;
  for (const InstructionSet isa : available_instruction_sets()) {
    for (const char* quantization : {"none", "int8", "int4"}) {
      modes.push_back({"bfloat16", quantization, "auto", std::string(name_of(isa))});
      modes.push_back({"bfloat16", quantization, "int8", std::string(name_of(isa))});
      modes.push_back({"float32", quantization, "auto", std::string(name_of(isa))});
    }
  }
  modes.push_back({.device = "ref"});
  modes.push_back({.dtype = "float32", .device = "ref"});
  return modes;
}
class NumericsOfInstructions : public testing::TestWithParam<Mode> {};
INSTANTIATE_TEST_SUITE_P(Modes, NumericsOfInstructions, testing::ValuesIn(all_modes()), name_of_mode);

TEST_P(Numerics, ManyRequestsAnswerAsEachDoesAlone) {
  const std::vector<GenerationRequest> requests = mixed_requests(kRequests, 42);
  LoadedModel model = LoadedModel::load(load_options(GetParam(), 2));
  const Answers alone = run_alone(model, engine_options(model), requests);

  EngineOptions options = engine_options(model);
  options.enable_prefix_cache = false;
  expect_all_same(run_together(model, options, requests).answers, alone, "in one batch");

  for (const int64_t chunk : {5, 200}) {
    options.chunked_prefill_size = chunk;
    expect_all_same(run_together(model, options, requests).answers, alone,
                    fmt::format("chunks of {}", chunk));
  }

  // The second round finds every prompt in the cache.
  const Outcome cached = run_together(model, engine_options(model), requests, 2);
  EXPECT_GT(cached.stats.cached_tokens, kSanitized ? 0U : 1000U);
  expect_all_same(cached.answers, alone, "from the prefix cache");

  // A cache that holds a few of the requests makes most of them give up their place at times.
  options = engine_options(model);
  options.max_total_tokens = 320;
  options.schedule_policy = SchedulePolicy::fcfs;  // fair turns begin fewer of them at once
  const Outcome preempted = run_together(model, options, requests);
  if (!kSanitized) {  // a few requests have room
    EXPECT_GT(preempted.stats.preemptions, 5U);
  }
  expect_all_same(preempted.answers, alone, "after preemption");

  for (const int threads : {1, 3}) {
    LoadedModel other = LoadedModel::load(load_options(GetParam(), threads));
    expect_all_same(run_together(other, engine_options(other), requests).answers, alone,
                    fmt::format("{} threads", threads));
  }
}

// Whatever the strategy, and with data-parallel groups that have batches of their own.
TEST_P(Numerics, RequestsAnswerTheSameUnderEveryStrategy) {
  const std::vector<GenerationRequest> requests = mixed_requests(kRequests, 42);
  LoadedModel model = LoadedModel::load(load_options(GetParam(), 2));
  const Answers simple = run_together(model, engine_options(model), requests).answers;
  for (const char* text : {"tp=4,dp=2,ep=8", "tp=8", "tp=2,dp=3,ep=3", "dp=4"}) {
    const parallel::Strategy strategy = parallel::parse_strategy(text);
    LoadOptions options = load_options(GetParam(), 1);
    options.parallel.strategy.tp_size = strategy.tp_size;
    options.parallel.strategy.dp_size = strategy.dp_size;
    options.parallel.strategy.ep_size = strategy.ep_size;
    options.parallel.strategy.moe_tp_size = strategy.moe_tp_size;
    options.parallel.strategy.moe_dp_size = strategy.moe_dp_size;
    LoadedModel other = LoadedModel::load(options);
    expect_all_same(run_together(other, engine_options(other), requests).answers, simple, text);
  }
}

// With one chunk for each matrix a device may keep partial sums from a product to where they are added, which
// it does not where rows travel.
TEST(MaxTpSize, OneChunkAnswersTheSameUnderStrategiesThatSplitNoMatrix) {
  for (const char* device : {"cpu", "ref"}) {
    const std::vector<GenerationRequest> requests = mixed_requests(kSanitized ? 3 : 8, 43);
    LoadOptions options = load_options(Mode{.device = device}, 1);
    options.parallel.max_tp_size = 1;
    LoadedModel model = LoadedModel::load(options);
    const Answers simple = run_together(model, engine_options(model), requests).answers;
    expect_all_same(run_alone(model, engine_options(model), requests), simple, "alone");
    options.parallel.strategy.dp_size = 2;
    for (const int ep_size : {1, 2}) {
      options.parallel.strategy.ep_size = ep_size;
      LoadedModel other = LoadedModel::load(options);
      expect_all_same(run_together(other, engine_options(other), requests).answers, simple,
                      fmt::format("{}, ep={}", device, ep_size));
    }
    options.parallel.strategy.tp_size = 2;
    EXPECT_NE(parallel::error_text([&] { LoadedModel::load(options); }).find("under --max-tp-size 1"),
              std::string::npos);
  }
}

class LocalRanks : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, LocalRanks, testing::Values("cpu", "ref"),
                         [](const auto& device) { return std::string(device.param); });

// A rank that throws ends every request, and its name is told.
TEST_P(LocalRanks, AFailureNamesTheRankAndEndsAllRequests) {
  LoadOptions options = load_options(Mode{.device = GetParam()}, 1);
  options.parallel.strategy.tp_size = 2;
  options.parallel.strategy.dp_size = 2;
  options.parallel.fault = InjectedFault{.rank = 3, .step = 2};
  LoadedModel model = LoadedModel::load(options);
  Recorder recorder;
  Engine engine(model.runner(), engine_options(model));
  const std::vector<GenerationRequest> requests = mixed_requests(8, 42);
  std::vector<Submission> together;  // or some would come behind the failure
  for (size_t i = 0; i < 6; ++i) together.push_back({requests[i], recorder.listener(requests[i].id)});
  ASSERT_FALSE(engine.submit(std::move(together)).has_value());
  for (size_t i = 0; i < 6; ++i) {
    const Record record = recorder.wait(requests[i].id);
    if (record.answer.finish != FinishReason::error) continue;  // it ended in the first step
    ASSERT_TRUE(record.error.has_value());
    EXPECT_NE(record.error->message.find("rank 3"), std::string::npos) << record.error->message;
  }
  EXPECT_TRUE(engine.stats().failed);
  EXPECT_EQ(engine.submit(requests[7], recorder.listener("late"))->kind, RequestError::Kind::unavailable);
}

// The same without sampling between: rows of logits, compared as bytes.
TEST_P(NumericsOfInstructions, RowsOfLogitsAreTheSameBytesInAnyStep) {
  LoadedModel model = LoadedModel::load(load_options(GetParam(), 2));
  const auto vocab = static_cast<size_t>(model.info().config.vocab_size);
  std::vector<int32_t> ids;
  for (int32_t t = 0; t < 90; ++t) ids.push_back((t * 131 + 7) % 4064);

  // Sequence s of a step owns the blocks from 8 s on, so the same tokens can stand in several places at once.
  const auto add_chunk = [&](StepPlan& plan, int64_t s, int64_t first, int64_t count) {
    SequenceChunk chunk{plan.num_tokens(), count, first, static_cast<int64_t>(plan.block_tables.size()), 8};
    for (int64_t t = 0; t < count; ++t) {
      plan.logits_tokens.push_back(static_cast<int32_t>(plan.num_tokens()));
      plan.token_ids.push_back(ids[static_cast<size_t>(first + t)]);
    }
    for (int64_t b = 0; b < 8; ++b) plan.block_tables.push_back(static_cast<int32_t>(8 * s + b));
    plan.chunks.push_back(chunk);
  };
  StepPlan whole;
  add_chunk(whole, 0, 0, 90);
  const std::span<const float> rows = model.runner().run(whole);
  const std::vector<float> expected(rows.begin(), rows.end());

  // Three copies of the sequence that are at different places of it.
  const std::vector<std::vector<int64_t>> ends{{40, 41, 90}, {1, 33, 64, 90}, {64, 65, 66, 90}};
  std::vector<int64_t> done(ends.size(), 0);
  for (size_t step = 0; step < 4; ++step) {
    StepPlan plan;
    std::vector<int64_t> starts;
    for (size_t s = 0; s < ends.size(); ++s) {
      starts.push_back(done[s]);
      if (step >= ends[s].size()) continue;
      add_chunk(plan, static_cast<int64_t>(s) + 1, done[s], ends[s][step] - done[s]);
      done[s] = ends[s][step];
    }
    const std::span<const float> mixed = model.runner().run(plan);
    size_t row = 0;
    for (size_t s = 0; s < ends.size(); ++s) {
      for (int64_t position = starts[s]; position < done[s]; ++position, ++row) {
        EXPECT_EQ(
            std::memcmp(&mixed[row * vocab], &expected[static_cast<size_t>(position) * vocab], vocab * 4), 0)
            << "sequence " << s << " position " << position;
      }
    }
    EXPECT_EQ(row * vocab, mixed.size());
  }
}

}  // namespace
}  // namespace chorale::engine
