// What was loaded, and how it is kept and computed. A value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/instruction_set.h"
#include "engine/parallel_plan.h"
#include "io/model_config.h"
#include "kernels/backend.h"
#include "model/weights.h"

namespace chorale::engine {

struct ModelInfo {
  io::ModelConfig config;
  io::GenerationDefaults generation_defaults;
  std::vector<int32_t> eos_token_ids;  // generation_config.json's, else config.json's
  model::WeightFormats formats;
  DType kv_dtype = DType::bf16;
  std::string device = "cpu";      // as --device names it
  std::string device_description;  // what it is, such as "NVIDIA H200"; empty for the CPU
  InstructionSet instruction_set = InstructionSet::portable;
  int num_threads = 1;  // each rank's
  ParallelPlan parallel;
  uint64_t weight_bytes = 0;     // stored in this process
  int64_t max_total_tokens = 0;  // KV capacity of each data-parallel group, a multiple of block_tokens()
  int64_t max_context_len = 0;   // the smaller of context_length and max_total_tokens

  int64_t kv_tokens_total() const { return max_total_tokens * parallel.strategy.dp_size; }
  int64_t block_tokens() const { return backend_of(formats.device).kv_block_tokens; }
  DType dtype() const { return formats.dtype; }  // the computation's
  std::string dtype_name() const { return std::string(name_of(dtype())); }
  std::string quantization_name() const { return std::string(formats.quantization()); }
  std::string instruction_set_name() const { return std::string(name_of(instruction_set)); }
};

}  // namespace chorale::engine
