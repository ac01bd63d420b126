// From a checkpoint's folder to something that runs steps: configuration, memory plan, weights and KV cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/op_profile.h"
#include "comm/communicator.h"
#include "engine/model_runner.h"
#include "engine/parallel_plan.h"
#include "io/model_config.h"
#include "model/weights.h"

namespace chorale::engine {

struct LoadOptions {
  std::filesystem::path model_path;
  // In place of model_path's config.json, for a model without files; load_format is then "dummy".
  std::optional<io::ModelConfig> config;
  std::string load_format = "auto";  // "auto": the checkpoint's files; "dummy": seeded random weights
  std::string dtype = "auto";        // compute: "auto" (bfloat16), "bfloat16", "float32"
  // Of the weights: "auto" (as the checkpoint is), "none", "int8", "int4"; "fp8", "gptq" and "awq" are auto
  // where the checkpoint is that.
  std::string quantization = "auto";
  std::string kv_cache_dtype = "auto";   // "auto" (as computed), "bfloat16" or "bf16", "int8"
  std::string instruction_set = "auto";  // "auto", "avx512_bf16", "avx512", "avx2", "portable"
  uint64_t dummy_seed = 0;
  int threads = 0;               // 0: one per core this process may use
  int64_t max_total_tokens = 0;  // KV cache capacity; 0: sized from free memory
  double mem_fraction = 0.8;     // of the memory free after weights, for the KV cache
  int64_t chunked_prefill_size = 512;
  int64_t max_running_requests = 256;
  int64_t context_length = 0;   // 0: max_position_embeddings
  int64_t max_logits_rows = 0;  // most rows of one step; 0: max_running_requests
  bool show_progress = true;
  OpProfile* profile = nullptr;  // of the first rank's steps; must outlive the model
  ParallelOptions parallel;
};

// How the weights are kept. Throws Error that names the flag.
model::WeightFormats choose_formats(const io::ModelConfig& config, const LoadOptions& options);

// Owns everything a running model needs. Movable, not copyable.
class LoadedModel {
 public:
  // Validates config and weights, prints the plan and the memory table (log lines), refuses what cannot fit,
  // then loads. Throws Error.
  static LoadedModel load(const LoadOptions& options);
  LoadedModel(LoadedModel&&) noexcept;
  LoadedModel& operator=(LoadedModel&&) noexcept;
  ~LoadedModel();

  // Whether requests enter at this process. Over MPI that is rank 0 alone; the others call serve_steps().
  bool is_driver() const;
  // On the other ranks: takes part in the steps of rank 0 until that stops, and returns the exit status. Ends
  // the process when a rank fails.
  int serve_steps();

  ModelRunner& runner();
  const io::ModelConfig& config() const;
  const io::GenerationDefaults& generation_defaults() const;
  // generation_config.json's end-of-sequence tokens, else config.json's.
  std::vector<int32_t> eos_token_ids() const;
  int64_t max_total_tokens() const;  // KV capacity in tokens, a multiple of kBlockTokens
  int64_t max_context_len() const;   // the smaller of context_length and max_total_tokens
  DType dtype() const;               // of the computation
  std::string dtype_name() const;    // "bfloat16" or "float32"
  DType kv_dtype() const;            // of the KV cache
  const model::WeightFormats& formats() const;
  std::string quantization_name() const;     // "none", "int8" or "int4"
  std::string instruction_set_name() const;  // what was chosen
  int num_threads() const;                   // of each rank
  const ParallelPlan& parallel_plan() const;
  uint64_t weight_bytes() const;    // stored in this process
  int64_t kv_tokens_total() const;  // of all data-parallel groups
  // With ranks in this process: what each has sent, and how many tokens went to each expert, int64 [layers *
  // E].
  std::vector<comm::Traffic> traffic() const;
  std::vector<int64_t> expert_load() const;
  // The same for the tokens at home on each rank: [world].
  std::vector<std::vector<int64_t>> expert_load_by_rank() const;

  struct Impl;

 private:
  explicit LoadedModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::engine
