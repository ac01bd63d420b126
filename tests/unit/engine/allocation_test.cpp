// In steady state a decode step allocates nothing before its events are told.
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/block_manager.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "unit/allocation_counter.h"
#include "unit/engine/decode_steps.h"

namespace chorale::engine {
namespace {

TEST(Allocation, SchedulerAndSamplerReuseTheirBuffers) {
  constexpr int64_t kVocab = 500;
  BlockManager blocks(64, true);
  Scheduler scheduler(blocks, {.chunked_prefill_size = 512, .max_running_requests = 4, .max_logits_rows = 4});
  Sampler sampler(kVocab);
  std::vector<float> row(kVocab);
  std::iota(row.begin(), row.end(), 0.0f);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (uint64_t i = 0; i < 4; ++i) {
    GenerationRequest request;
    request.prompt_ids.assign(20, static_cast<int32_t>(i));
    SamplingParams& p = request.sampling;
    p.repetition_penalty = 1.1;
    p.temperature = 30;
    if (i % 2 == 0) p.top_p = 0.9;
    if (i == 1) p.top_k = 40;
    if (i == 3) p.min_new_tokens = 100;
    sequences.push_back(std::make_unique<Sequence>(std::move(request), EventListener()));
    sequences.back()->arrival = i;
    sequences.back()->max_output = 200;
    sequences.back()->tokens.reserve(220);
    sequences.back()->blocks.reserve(8);
    scheduler.add(*sequences.back());
  }
  auto step = [&] {
    const ScheduledStep& planned = scheduler.schedule();
    scheduler.commit();
    for (const ScheduledSequence& s : planned.sequences) {
      Sequence& sequence = *s.sequence;
      const Sampled sampled = sampler.sample({.logits = row,
                                              .params = sequence.request.sampling,
                                              .seed = sequence.arrival,
                                              .prompt = sequence.prompt(),
                                              .output = sequence.output(),
                                              .eos_token_ids = {}});
      sequence.tokens.push_back(sampled.token);
    }
  };
  for (int i = 0; i < 15; ++i) step();  // every sequence has begun its second block
  const int64_t before = num_allocations;
  for (int i = 0; i < 20; ++i) step();
  const int64_t within_a_block = num_allocations - before;
  for (int i = 0; i < 80; ++i) step();
  const int64_t over_blocks = num_allocations - before;
  EXPECT_GT(before, 0) << "allocations are counted";
  EXPECT_EQ(within_a_block, 0);
  EXPECT_LE(over_blocks, 2) << "the block tables of the plan double now and then";
  for (auto& sequence : sequences) scheduler.remove(*sequence);
}

// The forward pass on one rank, and on eight that exchange tokens, with weights of each kind.
TEST(Allocation, ADecodeStepOfTheModelAllocatesNothing) {
  const std::vector<std::pair<bool, const char*>> cases{
      {false, "none"}, {true, "none"}, {false, "int8"}, {true, "int8"}, {true, "int4"}};
  for (const auto& [ranks, quantization] : cases) {
    LoadOptions options = decode_options();
    options.quantization = quantization;
    if (ranks) {
      options.parallel.strategy.tp_size = 4;
      options.parallel.strategy.dp_size = 2;
      options.parallel.strategy.ep_size = 8;
    }
    LoadedModel model = LoadedModel::load(options);
    DecodeSteps steps(model.runner());
    steps.run(0, 1);
    const int64_t before = num_allocations;
    steps.run(1, 30);
    EXPECT_EQ(num_allocations - before, 0) << (ranks ? "8 ranks, " : "1 rank, ") << quantization;
  }
}

}  // namespace
}  // namespace chorale::engine
