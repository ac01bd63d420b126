// What a model will take of the machine's memory, before any of it is allocated. Pure arithmetic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "engine/loaded_model.h"
#include "io/model_config.h"
#include "model/step_inputs.h"

namespace chorale::engine {

struct MemoryPlan {
  uint64_t weights = 0;      // bytes
  uint64_t kv_cache = 0;     // bytes, at the most
  uint64_t activations = 0;  // bytes: scratch, logits and step inputs
  uint64_t available = 0;    // bytes that this process may still take
  int64_t kv_tokens = 0;     // capacity, a multiple of kBlockTokens
  int64_t context_length = 0;
  model::StepLimits limits;

  // A line per row: what, bytes, detail.
  std::vector<std::string> table() const;
};

// Throws Error that names the flag, or the shortage and what would help, when the model cannot fit into
// `available`.
MemoryPlan plan_memory(const io::ModelConfig& config, DType dtype, const LoadOptions& options,
                       uint64_t available);

}  // namespace chorale::engine
