// Ranks of this process for a strategy, as they are planned and as they are made.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/instruction_set.h"
#include "engine/memory_plan.h"
#include "engine/model_runner.h"
#include "engine/parallel_plan.h"
#include "engine/stored_weights.h"
#include "model/step_inputs.h"

namespace chorale::engine {

// What every rank does, and what it takes of the machine.
struct LoadPlan {
  model::StepLimits limits;
  ParallelPlan parallel;
  InstructionSet instruction_set = InstructionSet::portable;  // of all ranks
  int threads_per_rank = 1;
  MemoryPlan memory;
};

// Ranks, with what they were made from.
struct PreparedRunner {
  ParallelPlan plan;
  int64_t max_total_tokens = 0;  // KV capacity of each data-parallel group
  // Each one's own, where they do not share the model's.
  std::vector<StoredWeights> stored = {};
  std::unique_ptr<ModelRunner> runner;
};

// Does the work on the thread that runs steps, between two of them, and returns when it is done. Throws Error
// when it is not done, because the model runner has failed or the engine has ended.
using BetweenSteps = std::function<void(const std::function<void()>& work)>;

}  // namespace chorale::engine
