// A model of random weights for benchmarks, in the shape of Qwen3-30B-A3B with other numbers of layers and
// experts, and the steps that are run on it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/model_runner.h"

namespace chorale::bench {

struct ModelFlags {
  int64_t experts = 1;
  int64_t top_k = 1;
  int64_t layers = 24;
  int threads = 0;  // of each rank
  std::string dtype = "bfloat16";
  std::string instruction_set = "auto";
  int tp_size = 1;
  int dp_size = 1;
};

inline constexpr int64_t kPrefillTokens = 512;
inline constexpr int64_t kMaxBatch = 16;
inline constexpr int64_t kBlocksOfSequence = 32;  // sequence s owns the blocks from 32 s on: 1,024 tokens

engine::LoadedModel load_bench_model(const ModelFlags& flags);

// num_chunks sequences that each get tokens_each tokens at first_position; the logits of each one's last.
engine::StepPlan make_step(int64_t num_chunks, int64_t tokens_each, int64_t first_position);

// Seconds of one step of all groups, each with the same plan.
double time_step(engine::ModelRunner& runner, const engine::StepPlan& plan);

double median(std::vector<double> values);

}  // namespace chorale::bench
