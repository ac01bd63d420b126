// How a model is to be loaded, as the flags give it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/op_profile.h"
#include "engine/parallel_plan.h"
#include "io/model_config.h"

namespace chorale::engine {

struct LoadOptions {
  std::filesystem::path model_path;
  // In place of model_path's config.json, for a model without files; load_format is then "dummy".
  std::optional<io::ModelConfig> config;
  std::string load_format = "auto";  // "auto": the checkpoint's files; "dummy": seeded random weights
  std::string device = "auto";       // where it is computed, as kernels/backend.h reads it
  std::string dtype = "auto";        // compute: "auto" (bfloat16), "bfloat16", "float32"
  // How weights are kept: "auto" (as the checkpoint is), "none", "int8", "int4"; "fp8", "gptq" and "awq" are
  // auto where the checkpoint is that.
  std::string quantization = "auto";
  std::string kv_cache_dtype = "auto";   // "auto" (as computed), "bfloat16" or "bf16", "int8"
  std::string instruction_set = "auto";  // "auto", "avx512_bf16", "avx512", "avx2", "portable"
  uint64_t dummy_seed = 0;
  int threads = 0;               // 0: one per core this process may use
  int64_t max_total_tokens = 0;  // KV cache capacity; 0: sized from free memory
  double mem_fraction = 0.8;     // the KV cache's part of what is free after weights
  int64_t chunked_prefill_size = 512;
  int64_t max_running_requests = 256;
  int64_t context_length = 0;   // 0: max_position_embeddings
  int64_t max_logits_rows = 0;  // most rows of one step; 0: max_running_requests
  bool records_steps = true;    // decode steps, where the device can keep them
  bool show_progress = true;
  // Called where requests enter, before the weights are read: what else may fail is to fail here, by throwing
  // Error. Empty: nothing.
  std::function<void()> before_weights = {};
  OpProfile* profile = nullptr;  // gets the ops of the first rank; must outlive the model
  ParallelOptions parallel;
};

}  // namespace chorale::engine
