// Ranks with a device each, or several on one. The reference device stands for GPUs: there are as many of it
// as are asked for.
#include "engine/rank_devices.h"

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "unit/engine/mixed_requests.h"
#include "unit/engine/recorder.h"
#include "unit/engine/small_model.h"

namespace chorale::engine {
namespace {

LoadOptions options_of(const std::string& device, std::vector<int> gpus, int ranks_per_gpu) {
  LoadOptions options = small_model("tp=1", device);
  options.parallel.gpus = std::move(gpus);
  options.parallel.ranks_per_gpu = ranks_per_gpu;
  return options;
}

std::vector<std::string> names_of(const LoadOptions& options, int world) {
  const RankProcesses processes(options.parallel, parallel::Strategy{.tp_size = world});
  RankDevices devices(options, world, processes);
  std::vector<std::string> names;
  for (const Device& device : devices.of_ranks(world)) names.push_back(device.name());
  return names;
}

std::string error_of(const LoadOptions& options, int world) {
  try {
    names_of(options, world);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(RankDevices, RanksGoToTheGpusInTheirOrder) {
  using testing::ElementsAre;
  EXPECT_THAT(names_of(options_of("cpu", {}, 0), 4), ElementsAre("cpu"));
  EXPECT_THAT(names_of(options_of("ref", {}, 0), 4), ElementsAre("ref"));
  EXPECT_THAT(names_of(options_of("ref", {3, 1}, 0), 2), ElementsAre("ref:3", "ref:1"));
  EXPECT_THAT(names_of(options_of("ref", {}, 1), 3), ElementsAre("ref", "ref:1", "ref:2"));
  EXPECT_THAT(names_of(options_of("ref", {2, 5}, 2), 4), ElementsAre("ref:2", "ref:2", "ref:5", "ref:5"));
  EXPECT_THAT(names_of(options_of("ref", {4, 5, 6}, 2), 3), ElementsAre("ref:4", "ref:4", "ref:5"));
}

TEST(RankDevices, WhatCannotBeIsRefusedWithTheFlag) {
  EXPECT_EQ(
      error_of(options_of("ref", {0, 1}, 2), 8),
      "--ranks-per-gpu: 8 ranks with 2 for each GPU need 4 GPUs, found 2; --ranks-per-gpu 4 puts more of "
      "them on one");
  EXPECT_EQ(
      error_of(options_of("ref", {0, 1}, 0), 3),
      "--ranks-per-gpu: 3 ranks with 1 for each GPU need 3 GPUs, found 2; --ranks-per-gpu 2 puts more of "
      "them on one");
  EXPECT_EQ(error_of(options_of("cpu", {0}, 0), 1), "--gpus: expected --device cuda, found --device cpu");
  EXPECT_EQ(error_of(options_of("cpu", {}, 2), 1),
            "--ranks-per-gpu: expected --device cuda, found --device cpu");
  EXPECT_EQ(error_of(options_of("cuda:1", {0}, 0), 1),
            "--gpus: expected --device cuda, found --device cuda:1");
  LoadOptions options = options_of("cpu", {}, 0);
  options.parallel.collectives = "nccl";
  EXPECT_EQ(error_of(options, 1), "--collectives nccl: expected --device cuda, found --device cpu");
}

TEST(RankDevices, ExpertsDoNotMoveBetweenDevices) {
  LoadOptions options = small_model("dp=2,ep=2", "ref");
  options.parallel.ranks_per_gpu = 1;
  options.parallel.enable_eplb = true;
  EXPECT_THAT([&] { LoadedModel::load(options); },
              testing::ThrowsMessage<Error>(
                  testing::StartsWith("--device ref: experts move (--enable-eplb) on the CPU alone")));
}

TEST(RankDevices, AnExpertTwiceOnARankIsRefused) {
  LoadOptions options = small_model("tp=2", "ref");  // which splits each expert
  options.parallel.ranks_per_gpu = 1;
  options.parallel.num_redundant_experts = 4;
  EXPECT_THAT(
      [&] { LoadedModel::load(options); },
      testing::ThrowsMessage<Error>(testing::HasSubstr("expected each expert in one slot of it at most")));
}

std::map<std::string, Answer> answers_of(const LoadOptions& load,
                                         const std::vector<GenerationRequest>& requests) {
  LoadedModel model = LoadedModel::load(load);
  Recorder recorder;
  Engine engine(model.runner(), engine_options_of(model, load));
  for (const GenerationRequest& request : requests)
    EXPECT_FALSE(engine.submit(request, recorder.listener(request.id)).has_value());
  std::map<std::string, Answer> answers;
  for (const GenerationRequest& request : requests) answers[request.id] = recorder.wait(request.id).answer;
  return answers;
}

// Each rank stores its own part on its own device.
TEST(RankDevices, RanksOfSeveralDevicesAnswerAsOneDoes) {
  const std::vector<GenerationRequest> requests = mixed_requests(2, 42);
  for (const int64_t experts : {16, 3}) {
    LoadOptions one = small_model("tp=1", "ref");
    one.config->num_experts = experts;
    one.config->num_experts_per_tok = 2;
    const auto expected = answers_of(one, requests);
    const std::vector<const char*> strategies = experts == 3 ? std::vector<const char*>{"tp=2", "dp=2,ep=2"}
                                                             : std::vector<const char*>{"tp=4,dp=2,ep=8"};
    for (const char* strategy : strategies) {
      LoadOptions several = small_model(strategy, "ref");
      several.config = one.config;
      several.parallel.gpus = {0, 1};
      several.parallel.ranks_per_gpu = std::string(strategy).starts_with("tp=4") ? 4 : 1;
      const auto actual = answers_of(several, requests);
      for (const auto& [id, answer] : expected)
        expect_same(actual.at(id), answer, std::string(strategy) + ", " + id);
    }
  }
}

}  // namespace
}  // namespace chorale::engine
