#include "tools/bench/presets.h"

#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace chorale::bench {
namespace {

struct Shape {
  std::string_view name;
  int64_t hidden, layers, heads, intermediate, moe_intermediate, experts, top_k;
};

// After the config.json of Qwen/Qwen3-30B-A3B and Qwen/Qwen3-235B-A22B on the Hugging Face hub. The others
// are the first with fewer experts or layers.
constexpr std::array kShapes = {
    Shape{"qwen3-30b-a3b", 2048, 48, 32, 6144, 768, 128, 8},
    Shape{"qwen3-30b-a3b-1e", 2048, 48, 32, 6144, 768, 1, 1},
    Shape{"qwen3-30b-a3b-12l-8e2", 2048, 12, 32, 6144, 768, 8, 2},
    Shape{"qwen3-30b-a3b-6l", 2048, 6, 32, 6144, 768, 128, 8},
    Shape{"qwen3-235b-a22b", 4096, 94, 64, 12288, 1536, 128, 8},
};

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

io::ModelConfig preset(std::string_view name) {
  for (const Shape& shape : kShapes) {
    if (shape.name != name) continue;
    const nlohmann::json config = {{"architectures", {"Qwen3MoeForCausalLM"}},
                                   {"model_type", "qwen3_moe"},
                                   {"vocab_size", 151936},
                                   {"hidden_size", shape.hidden},
                                   {"num_hidden_layers", shape.layers},
                                   {"num_attention_heads", shape.heads},
                                   {"num_key_value_heads", 4},
                                   {"head_dim", 128},
                                   {"intermediate_size", shape.intermediate},
                                   {"moe_intermediate_size", shape.moe_intermediate},
                                   {"num_experts", shape.experts},
                                   {"num_experts_per_tok", shape.top_k},
                                   {"norm_topk_prob", true},
                                   {"max_position_embeddings", 40960},
                                   {"rope_theta", 1000000.0},
                                   {"rms_norm_eps", 1e-6}};
    return io::parse_model_config(config.dump(), name);
  }
  throw_error("--preset: expected one of {}, found \"{}\"", fmt::join(preset_names(), ", "), name);
}

}  // namespace chorale::bench
