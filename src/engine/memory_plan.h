// What a model will take of the machine's memory, before any of it is allocated. Pure arithmetic.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/load_options.h"
#include "engine/parallel_plan.h"
#include "io/model_config.h"
#include "model/step_inputs.h"
#include "model/weights.h"

namespace chorale::engine {

struct MemoryPlan {
  uint64_t weights = 0;      // bytes, in this process
  uint64_t kv_cache = 0;     // bytes, at the most
  uint64_t activations = 0;  // bytes: scratch, logits, sampling and step inputs
  uint64_t available = 0;    // bytes that this process may still take
  DType kv_dtype = DType::bf16;
  int64_t spare_blocks = 0;  // of the KV cache of each group, beyond its capacity; part of kv_cache
  int64_t kv_tokens = 0;     // capacity of each data-parallel group, a multiple of the KV block size
  int64_t num_dp_groups = 1;
  int64_t context_length = 0;
  int64_t step_tokens = 0;  // in the largest step of a group

  // A line per row: what, bytes, detail.
  std::vector<std::string> table() const;
};

// Most tokens of one sequence. Throws Error that names the flag.
int64_t choose_context_length(const io::ModelConfig& config, const LoadOptions& options);

// What the KV cache keeps, for a computation in `dtype`. Throws Error that names the flag.
DType choose_kv_dtype(const io::ModelConfig& config, DType dtype, const LoadOptions& options);

// The largest step of one data-parallel group. max_running_requests and max_logits_rows are those of all
// groups.
model::StepLimits choose_limits(const io::ModelConfig& config, const LoadOptions& options,
                                int64_t num_dp_groups);

// Where the ranks of `here` share this process. Throws Error that tells the shortage and what would help when
// the model cannot fit into `available`.
MemoryPlan plan_memory(const io::ModelConfig& config, const model::WeightFormats& formats,
                       const LoadOptions& options, const ParallelPlan& parallel, std::span<const int> here,
                       uint64_t available);

// A line per rank: its place, experts, weights, and tokens of KV cache.
std::vector<std::string> rank_lines(const io::ModelConfig& config, const model::WeightFormats& formats,
                                    const ParallelPlan& parallel, int64_t kv_tokens);

}  // namespace chorale::engine
