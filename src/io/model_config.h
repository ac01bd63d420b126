// The architecture of a Qwen3-MoE checkpoint, read from its config.json (Hugging Face, transformers 4 and 5
// spellings).
//
// Field names are config.json's own. A value of this type has been validated: sizes are positive and bounded,
// num_attention_heads is a multiple of num_key_value_heads, and num_experts_per_tok is at most num_experts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "io/quantization_config.h"

namespace chorale::io {

// Scaling of rotary position embeddings beyond the trained length.
struct RopeScaling {
  enum class Type { none, linear, yarn };
  Type type = Type::none;
  double factor = 1.0;
  // Yarn only (arXiv 2309.00071); the defaults are those of transformers.
  double original_max_position_embeddings = 0;  // set by the parser for yarn, else 0
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  std::optional<double> attention_factor;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;

  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::string architecture;  // "Qwen3MoeForCausalLM"
  std::string model_type;    // "qwen3_moe"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;           // even
  int64_t intermediate_size = 0;  // width of dense layers; 0 allowed when every layer has experts
  int64_t moe_intermediate_size = 0;
  int64_t num_experts = 0;          // logical experts of each sparse layer; 0: every layer is dense
  int64_t num_experts_per_tok = 0;  // 0 when no layer is sparse
  int64_t decoder_sparse_step = 1;
  std::vector<int64_t> mlp_only_layers;  // ascending
  bool norm_topk_prob = false;
  bool attention_bias = false;
  bool tie_word_embeddings = false;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  // The longest sequence; under yarn original_max_position_embeddings times factor, where the former is
  // given.
  int64_t max_position_embeddings = 32768;
  bool has_dual_chunk_attention = false;  // dual_chunk_attention_config is there; it is not used
  DType dtype = DType::bf16;  // the checkpoint's own, from dtype or torch_dtype; bf16 when neither is given
  QuantizationConfig quantization;
  // Not of the file: ranks that may split a matrix, at most, which is how many canonical chunks there are
  // (parallel/sharding_plan.h).
  int64_t max_tp_size = 8;
  std::optional<int64_t> bos_token_id;  // as config.json gives them; generation_config.json takes precedence
  std::vector<int64_t> eos_token_ids;

  // Whether layer l has experts (transformers' rule: not in mlp_only_layers, num_experts > 0, and
  // (l + 1) divisible by decoder_sparse_step).
  bool is_sparse_layer(int64_t layer) const;

  bool operator==(const ModelConfig&) const = default;
};

// Sampling defaults of generation_config.json; absent fields are nullopt.
struct GenerationDefaults {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> top_k;  // 0 or -1: all tokens
  std::optional<bool> do_sample;
  std::optional<int64_t> max_new_tokens;
  std::vector<int64_t> eos_token_ids;  // empty: not given

  bool operator==(const GenerationDefaults&) const = default;
};

// What to tell of has_dual_chunk_attention.
inline constexpr const char* kDualChunkAttention =
    "dual_chunk_attention_config is not used: attention is exact over the whole context, which takes time "
    "and "
    "memory for the longest ones";

// Parses the text of a config.json. `source` is the name used in error messages (the file's path).
// Throws Error that names the file and the field, what was expected and what was found; an architecture that
// is not supported is named together with those that are.
ModelConfig parse_model_config(std::string_view json_text, std::string_view source);

// Reads and parses `directory`/config.json. The file is bounded at 16 MiB.
ModelConfig load_model_config(const std::filesystem::path& directory);

// Parses generation_config.json, errors as above; an absent file gives defaults without values.
GenerationDefaults parse_generation_defaults(std::string_view json_text, std::string_view source);
GenerationDefaults load_generation_defaults(const std::filesystem::path& directory);

}  // namespace chorale::io
