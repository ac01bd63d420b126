// Another strategy, and experts that move, among the processes that mpirun starts:
// mpi_switch --name=NAME --ranks=N [--files=DIR], with as many processes. Rank 0 has the engine and the
// report; the others do what they are told. --files: a model, which is spoiled at the end, in place of random
// weights. CHORALE_SWITCHES: how many changes a test makes.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "engine/strategy_switch.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/mixed_requests.h"
#include "unit/engine/recorder.h"
#include "unit/engine/small_model.h"

namespace chorale::engine {
namespace {

using Records = std::map<std::string, Record>;

int num_ranks = 4;
LoadedModel* model = nullptr;  // over MPI
LoadOptions load;              // of it
std::filesystem::path files;   // of the model; empty: random weights

LoadOptions options_of(const std::string& strategy) {
  LoadOptions options = small_model(strategy);
  if (files.empty()) return options;
  options.config.reset();
  options.load_format = "auto";
  options.model_path = files;
  return options;
}

std::string first_strategy() {
  return num_ranks == 2 ? "dp=2,ep=2" : num_ranks == 4 ? "dp=4,ep=4" : "dp=8,ep=8";
}

std::vector<std::string> strategies() {
  switch (num_ranks) {
    case 2:
      return {"tp=2", "dp=2,ep=2", "tp=2,ep=2", "dp=2"};
    case 4:
      return {"tp=4", "dp=4,ep=4", "tp=2,dp=2,ep=2,moe_tp=2", "tp=2,dp=2,ep=4", "dp=4", "tp=4,ep=2,moe_tp=2"};
    case 8:
      return {"tp=8",          "dp=8,ep=8", "tp=4,dp=2,ep=8", "tp=2,dp=4,ep=4,moe_tp=2", "tp=4,dp=2,ep=4",
              "tp=8,moe_dp=2", "dp=8"};
    default:
      throw_error("--ranks: expected 2, 4 or 8, found {}", num_ranks);
  }
}

int64_t num_switches(int64_t usual) {
  const char* const asked = std::getenv("CHORALE_SWITCHES");
  return asked != nullptr ? std::atoll(asked) : usual;
}

void submit_all(Engine& engine, Recorder& recorder, const std::vector<GenerationRequest>& requests) {
  for (const GenerationRequest& r : requests) {
    EXPECT_FALSE(engine.submit(r, recorder.listener(r.id)).has_value());
  }
}

Records wait_for_all(Recorder& recorder, const std::vector<GenerationRequest>& requests) {
  Records records;
  for (const GenerationRequest& r : requests) records[r.id] = recorder.wait(r.id);
  return records;
}

// One rank of this process, which nobody disturbs.
Records undisturbed(const std::vector<GenerationRequest>& requests) {
  const LoadOptions simple = options_of("tp=1");
  LoadedModel one = LoadedModel::load(simple);
  Recorder recorder;
  Engine engine(one.runner(), engine_options_of(one, simple));
  submit_all(engine, recorder, requests);
  return wait_for_all(recorder, requests);
}

void expect_same_events(const Records& actual, const Records& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [id, record] : expected) {
    const Record& other = actual.at(id);
    const std::string where = what + ", " + id;
    expect_same(other.answer, record.answer, where);
    EXPECT_EQ(other.num_events, record.num_events) << where;
    EXPECT_EQ(other.matched_stop_token, record.matched_stop_token) << where;
    EXPECT_EQ(other.num_completion_tokens, record.num_completion_tokens) << where;
    EXPECT_FALSE(other.error.has_value()) << where;
  }
}

StrategyChange change_to(StrategySwitch& strategy_switch, const std::string& strategy) {
  const auto told = std::make_shared<std::promise<StrategyChange>>();
  EXPECT_TRUE(strategy_switch.start(strategy, [told](const StrategyChange& made) { told->set_value(made); }));
  return told->get_future().get();
}

TEST(MpiSwitch, NoEventDiffersWhateverTheStrategiesAndTheMoments) {
  const std::vector<GenerationRequest> requests = mixed_requests(10, 3);
  const Records expected = undisturbed(requests);
  const std::vector<std::string> all = strategies();
  std::mt19937_64 random(11);
  EngineOptions options = engine_options_of(*model, load);
  options.eplb = {.enabled = true, .interval = 2, .min_balancedness = 1};  // experts move all the while
  Engine engine(model->runner(), options);
  StrategySwitch strategy_switch(*model, engine);
  std::string path = strategy_switch.current();
  int64_t made = 0, blocks = 0;
  for (const int64_t switches = num_switches(6); made < switches;) {
    Recorder recorder;
    submit_all(engine, recorder, requests);
    for (int i = 0; i < 2 && made < switches; ++i, ++made) {
      const std::string& strategy = all[random() % all.size()];
      path += " > " + strategy;
      recorder.wait_tokens(requests[random() % requests.size()].id, 1 + random() % 5);
      const StrategyChange change = change_to(strategy_switch, strategy);
      ASSERT_FALSE(change.result.error.has_value()) << *change.result.error << path;
      blocks += change.result.moved_blocks;
      EXPECT_EQ(change.result.moved_bytes > 0, change.result.moved_blocks > 0);
    }
    expect_same_events(wait_for_all(recorder, requests), expected, path);
    ASSERT_TRUE(engine.wait_idle(60));
  }
  EXPECT_EQ(engine.stats().switches, static_cast<uint64_t>(made));
  EXPECT_GT(blocks, 0);
  ASSERT_FALSE(change_to(strategy_switch, first_strategy()).result.error.has_value());
}

TEST(MpiSwitch, ThatIsRefusedChangesNothing) {
  const std::vector<GenerationRequest> requests = mixed_requests(4, 21);
  const Records expected = undisturbed(requests);
  Engine engine(model->runner(), engine_options_of(*model, load));
  StrategySwitch strategy_switch(*model, engine);
  Recorder recorder;
  submit_all(engine, recorder, requests);
  const std::map<std::string, std::string> refusals{{"tp=1", "expected a strategy of"}, {"tp=3", "tp"}};
  for (const auto& [strategy, why] : refusals) {
    const StrategyChange change = change_to(strategy_switch, strategy);
    ASSERT_TRUE(change.result.error.has_value()) << strategy;
    EXPECT_NE(change.result.error->find(why), std::string::npos) << *change.result.error;
    EXPECT_EQ(change.strategy, strategy_switch.current());
  }
  // What all processes have made, and the engine then refuses.
  const BetweenSteps between = [&](const std::function<void()>& work) {
    const auto done = std::make_shared<std::promise<void>>();
    engine.between_steps([&work, done] {
      work();
      done->set_value();
    });
    done->get_future().get();
  };
  for (int i = 0; i < 2; ++i) {
    std::unique_ptr<PreparedRunner> prepared =
        model->prepare(parallel::parse_strategy(strategies()[0]), between);
    const auto told = std::make_shared<std::promise<SwitchResult>>();
    engine.switch_runner(*prepared->runner, 64, [told](const SwitchResult& r) { told->set_value(r); });
    const SwitchResult refused = told->get_future().get();
    ASSERT_TRUE(refused.error.has_value());
    EXPECT_NE(refused.error->find("64 tokens"), std::string::npos) << *refused.error;
    model->drop(std::move(prepared), between);
  }
  expect_same_events(wait_for_all(recorder, requests), expected, "after what was refused");
  ASSERT_TRUE(engine.wait_idle(60));
  EXPECT_EQ(engine.stats().switches, 0U);
}

TEST(MpiExperts, MoveBetweenProcessesAndNoAnswerDiffers) {
  const std::vector<GenerationRequest> requests = mixed_requests(10, 42);
  const Records expected = undisturbed(requests);
  Engine engine(model->runner(), engine_options_of(*model, load));
  const auto ask = [&] {
    const auto told = std::make_shared<std::promise<RebalanceResult>>();
    engine.rebalance_experts([told](const RebalanceResult* result) { told->set_value(*result); });
    return told->get_future().get();
  };
  RebalanceResult last;
  ExpertMoves moves;
  for (int i = 0; i < 3; ++i) {
    Recorder recorder;
    submit_all(engine, recorder, requests);
    recorder.wait_tokens(requests[0].id, 2);
    last = ask();
    moves.layers += last.moves.layers;
    moves.bytes += last.moves.bytes;
    EXPECT_LE(std::accumulate(last.after.begin(), last.after.end(), 0.0),
              std::accumulate(last.before.begin(), last.before.end(), 0.0));
    expect_same_events(wait_for_all(recorder, requests), expected, "while experts move");
    ASSERT_TRUE(engine.wait_idle(60));
  }
  EXPECT_GT(moves.layers, 0U);
  EXPECT_GT(moves.bytes, 0U);
}

// The last one: it leaves files that nobody can use.
TEST(MpiSwitchOfFiles, ThatCannotReadThemChangesNothing) {
  const std::vector<GenerationRequest> requests = mixed_requests(4, 17);
  const Records expected = undisturbed(requests);
  for (const auto& entry : std::filesystem::directory_iterator(files)) {
    if (entry.path().extension() == ".safetensors") std::filesystem::resize_file(entry.path(), 100'000);
  }
  Engine engine(model->runner(), engine_options_of(*model, load));
  StrategySwitch strategy_switch(*model, engine);
  Recorder recorder;
  submit_all(engine, recorder, requests);
  for (int i = 0; i < 2; ++i) {
    const StrategyChange change = change_to(strategy_switch, strategies()[0]);
    ASSERT_TRUE(change.result.error.has_value());
    EXPECT_TRUE(change.result.error->starts_with("rank ")) << *change.result.error;
    EXPECT_NE(change.result.error->find(".safetensors"), std::string::npos) << *change.result.error;
  }
  expect_same_events(wait_for_all(recorder, requests), expected, "with files that nobody can read");
  ASSERT_TRUE(engine.wait_idle(60));
  EXPECT_EQ(engine.stats().switches, 0U);
}

int run(int argc, char** argv) {
  std::string name = "mpi_switch";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("--name=")) name = argument.substr(7);
    if (argument.starts_with("--files=")) files = argument.substr(8);
    if (argument.starts_with("--ranks=")) num_ranks = std::atoi(argument.substr(8).data());
  }
  load = options_of(first_strategy());
  load.parallel.communicator = "mpi";
  load.parallel.enable_eplb = true;
  load.parallel.num_redundant_experts = 4;
  load.parallel.dispatch_algorithm = "dynamic";
  load.parallel.collective_timeout = 60;  // the machine may be busy
  LoadedModel loaded = LoadedModel::load(load);
  if (!loaded.is_driver()) return loaded.serve_steps();
  model = &loaded;
  if (files.empty()) testing::GTEST_FLAG(filter) = "-MpiSwitchOfFiles.*";  // random weights are always there
  // Before GoogleTest starts, which then takes the name as it is.
  std::string& report = testing::GTEST_FLAG(output);
  if (report.ends_with('/')) report += name + "_tests.xml";
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace chorale::engine

int main(int argc, char** argv) {
  try {
    return chorale::engine::run(argc, argv);
  } catch (const chorale::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
