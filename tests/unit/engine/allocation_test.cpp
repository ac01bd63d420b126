// In steady state a decode step allocates nothing before its events are told.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "engine/block_manager.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

namespace {

std::atomic<int64_t> num_allocations = 0;

void* counted(std::size_t bytes) {
  ++num_allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

}  // namespace

// For the whole test binary. The nothrow form must come from the same allocator, because it shares operator
// delete.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* memory = counted(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}

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

}  // namespace
}  // namespace chorale::engine
