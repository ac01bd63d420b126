#include "io/model_config.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "io/file_access.h"
#include "io/json_fields.h"
#include "io/model_folder.h"
#include "io/rope_config.h"
#include "io/vocabulary_limit.h"

namespace chorale::io {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;
constexpr std::string_view kArchitecture = "Qwen3MoeForCausalLM";
constexpr std::string_view kModelType = "qwen3_moe";

// Far above any model that exists, and low enough that products of a few sizes stay within 64 bits.
constexpr int64_t kMaxParameters = int64_t{1} << 48;
constexpr IntegerRange kVocabRange{1, kMaxVocabSize};
constexpr IntegerRange kHiddenRange{1, int64_t{1} << 20};
constexpr IntegerRange kIntermediateRange{1, int64_t{1} << 24};
constexpr IntegerRange kLayersRange{1, 10'000};
constexpr IntegerRange kHeadsRange{1, 65'536};
constexpr IntegerRange kHeadDimRange{2, 8192};  // what the attention kernels have room for
constexpr IntegerRange kExpertsRange{0, 65'536};
constexpr IntegerRange kPositionsRange{2, int64_t{1} << 31};

void check_architecture(const JsonFields& fields) {
  const std::string supported = fmt::format("\"{}\" (model_type \"{}\")", kArchitecture, kModelType);
  const json* architectures = fields.find("architectures");
  const json* model_type = fields.find("model_type");
  if (architectures == nullptr && model_type == nullptr) fields.fail_missing("architectures", supported);
  if (architectures != nullptr && !architectures->is_array()) {
    fields.fail_value("architectures", fmt::format("an array with {}", supported), *architectures);
  }
  if (architectures != nullptr &&
      std::find(architectures->begin(), architectures->end(), kArchitecture) == architectures->end()) {
    fields.fail("architectures", fmt::format("the supported architecture, {}", supported),
                architectures->empty() ? "an empty array" : describe(architectures->front()));
  }
  if (model_type != nullptr && *model_type != kModelType) {
    fields.fail_value("model_type", fmt::format("the supported architecture, {}", supported), *model_type);
  }
}

// Switches of the architecture that would change the results and are not offered.
void refuse_unsupported(const JsonFields& fields) {
  if (const json* act = fields.find("hidden_act"); act != nullptr && *act != "silu") {
    fields.fail_value("hidden_act", "\"silu\", the only activation supported", *act);
  }
  if (fields.optional_boolean("use_sliding_window").value_or(false)) {
    fields.fail("use_sliding_window", "false (sliding-window attention is not supported)", "true");
  }
  if (const json* types = fields.find("layer_types"); types != nullptr) {
    if (!types->is_array()) fields.fail_value("layer_types", "an array", *types);
    for (const json& type : *types) {
      if (type != "full_attention")
        fields.fail_value("layer_types", "\"full_attention\" in every layer", type);
    }
  }
}

DType read_dtype(const JsonFields& fields) {
  for (const std::string_view name : {"dtype", "torch_dtype"}) {
    const std::optional<std::string> text = fields.optional_string(name);
    if (!text) continue;
    std::string_view type = *text;
    if (type.starts_with("torch.")) type.remove_prefix(6);
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      if (type == name_of(dtype)) return dtype;
    }
    fields.fail(name, "\"bfloat16\", \"float16\" or \"float32\"", quote(*text));
  }
  return DType::bf16;
}

int64_t read_num_experts(const JsonFields& fields) {
  const bool both = fields.find("num_experts") != nullptr && fields.find("num_local_experts") != nullptr;
  const bool local = fields.find("num_experts") == nullptr && fields.find("num_local_experts") != nullptr;
  const int64_t count = fields.integer(local ? "num_local_experts" : "num_experts", kExpertsRange);
  if (both && fields.integer("num_local_experts", kExpertsRange) != count) {
    fields.fail_value("num_local_experts", fmt::format("the same as num_experts, {}", count),
                      *fields.find("num_local_experts"));
  }
  return count;
}

void read_attention(const JsonFields& fields, ModelConfig& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", kHeadsRange);
  config.num_key_value_heads = fields.integer("num_key_value_heads", kHeadsRange);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.fail("num_attention_heads",
                fmt::format("a multiple of num_key_value_heads ({})", config.num_key_value_heads),
                fmt::format("{}", config.num_attention_heads));
  }
  const std::optional<int64_t> head_dim = fields.optional_integer("head_dim", kHeadDimRange);
  config.head_dim = head_dim.value_or(config.hidden_size / config.num_attention_heads);
  if (config.head_dim < kHeadDimRange.min || config.head_dim % 2 != 0) {
    fields.fail("head_dim", "an even number of at least 2 (rotary embeddings turn pairs)",
                fmt::format("{}{}", config.head_dim, head_dim ? "" : " (hidden_size / num_attention_heads)"));
  }
  config.attention_bias = fields.boolean_or("attention_bias", false);
  config.max_position_embeddings =
      fields.integer_or("max_position_embeddings", config.max_position_embeddings, kPositionsRange);
  read_rope(fields, config);
  config.has_dual_chunk_attention = fields.find("dual_chunk_attention_config") != nullptr;
}

// The dense and the sparse layers: which is which, and the sizes that the kinds present need.
void read_feed_forward(const JsonFields& fields, ModelConfig& config) {
  config.num_experts = read_num_experts(fields);
  config.decoder_sparse_step = fields.integer_or("decoder_sparse_step", 1, {1, kLayersRange.max});
  config.mlp_only_layers = fields.integers("mlp_only_layers", {0, config.num_hidden_layers - 1});
  std::sort(config.mlp_only_layers.begin(), config.mlp_only_layers.end());
  config.mlp_only_layers.erase(std::unique(config.mlp_only_layers.begin(), config.mlp_only_layers.end()),
                               config.mlp_only_layers.end());
  config.norm_topk_prob = fields.boolean_or("norm_topk_prob", false);

  int64_t sparse = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    sparse += config.is_sparse_layer(layer) ? 1 : 0;
  if (sparse > 0) {
    config.num_experts_per_tok = fields.integer("num_experts_per_tok", {1, kExpertsRange.max});
    if (config.num_experts_per_tok > config.num_experts) {
      fields.fail("num_experts_per_tok", fmt::format("at most num_experts ({})", config.num_experts),
                  fmt::format("{}", config.num_experts_per_tok));
    }
    config.moe_intermediate_size = fields.integer("moe_intermediate_size", kIntermediateRange);
  }
  if (sparse < config.num_hidden_layers) {
    config.intermediate_size = fields.integer("intermediate_size", kIntermediateRange);
  } else {
    config.intermediate_size = fields.integer_or("intermediate_size", 0, {0, kIntermediateRange.max});
  }
}

// Sizes that are in range one by one may still be absurd together.
void check_parameter_count(const ModelConfig& config, std::string_view source) {
  const int64_t attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * config.head_dim;
  std::optional<int64_t> total = checked_mul<int64_t>(2 * config.vocab_size, config.hidden_size);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const bool sparse = config.is_sparse_layer(layer);
    const int64_t columns = sparse
                                ? 3 * config.num_experts * config.moe_intermediate_size + config.num_experts
                                : 3 * config.intermediate_size;
    const std::optional<int64_t> in_layer = checked_mul(attention + columns, config.hidden_size);
    total = total && in_layer ? checked_add(*total, *in_layer) : std::nullopt;
  }
  if (!total || *total > kMaxParameters) {
    throw_error("{}: expected sizes that make at most 2^48 parameters, found {}", source,
                total ? fmt::format("{}", *total) : "more than 2^63");
  }
}

}  // namespace

bool ModelConfig::is_sparse_layer(int64_t layer) const {
  return num_experts > 0 && (layer + 1) % decoder_sparse_step == 0 &&
         std::find(mlp_only_layers.begin(), mlp_only_layers.end(), layer) == mlp_only_layers.end();
}

ModelConfig parse_model_config(std::string_view json_text, std::string_view source) {
  const json document = parse_json_object(json_text, source);
  const JsonFields fields(document, source);
  check_architecture(fields);
  refuse_unsupported(fields);

  ModelConfig config;
  config.architecture = kArchitecture;
  config.model_type = kModelType;
  config.vocab_size = fields.integer("vocab_size", kVocabRange);
  config.hidden_size = fields.integer("hidden_size", kHiddenRange);
  config.num_hidden_layers = fields.integer("num_hidden_layers", kLayersRange);
  read_attention(fields, config);
  read_feed_forward(fields, config);
  config.rms_norm_eps =
      fields.number_or("rms_norm_eps", config.rms_norm_eps, {.min = 0, .above_min = true, .max = 1});
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
  config.dtype = read_dtype(fields);
  config.quantization = read_quantization_config(fields);
  config.bos_token_id = fields.optional_integer("bos_token_id", kTokenIdRange);
  config.eos_token_ids = fields.integer_or_list("eos_token_id", kTokenIdRange);
  check_parameter_count(config, source);
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& directory) {
  require_checkpoint_folder(directory);
  const std::filesystem::path file = directory / "config.json";
  return parse_model_config(read_checkpoint_text(file, kMaxConfigBytes), file.string());
}

GenerationDefaults parse_generation_defaults(std::string_view json_text, std::string_view source) {
  const json document = parse_json_object(json_text, source);
  const JsonFields fields(document, source);
  GenerationDefaults defaults;
  defaults.temperature = fields.optional_number("temperature", {.min = 0});
  defaults.top_p = fields.optional_number("top_p", {.min = 0, .above_min = true, .max = 1});
  defaults.min_p = fields.optional_number("min_p", {.min = 0, .max = 1});
  defaults.repetition_penalty = fields.optional_number("repetition_penalty", {.min = 0, .above_min = true});
  defaults.top_k = fields.optional_integer("top_k", {-1, int64_t{1} << 31});
  defaults.do_sample = fields.optional_boolean("do_sample");
  defaults.max_new_tokens = fields.optional_integer("max_new_tokens", {1, int64_t{1} << 31});
  defaults.eos_token_ids = fields.integer_or_list("eos_token_id", kTokenIdRange);
  return defaults;
}

GenerationDefaults load_generation_defaults(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "generation_config.json";
  if (!has_entry(file)) return {};
  return parse_generation_defaults(read_checkpoint_text(file, kMaxConfigBytes), file.string());
}

}  // namespace chorale::io
