// Any text, taken as config.json and as generation_config.json, either parses to values in range or throws
// Error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/model_config.h"

namespace {

void check_model_config(std::string_view text) {
  const chorale::io::ModelConfig config = chorale::io::parse_model_config(text, "config.json");
  CHORALE_CHECK(config.hidden_size > 0 && config.vocab_size > 0 && config.num_hidden_layers > 0, "sizes");
  CHORALE_CHECK(config.head_dim > 0 && config.head_dim % 2 == 0, "head_dim {}", config.head_dim);
  CHORALE_CHECK(config.num_attention_heads % config.num_key_value_heads == 0, "heads");
  CHORALE_CHECK(config.num_experts_per_tok <= config.num_experts, "top-k {}", config.num_experts_per_tok);
  CHORALE_CHECK(config.rms_norm_eps > 0 && config.rope_theta > 0 && config.rope_scaling.factor > 0,
                "numbers");
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const bool sparse = config.is_sparse_layer(layer);
    CHORALE_CHECK((sparse ? config.moe_intermediate_size : config.intermediate_size) > 0, "layer {}", layer);
    CHORALE_CHECK(!sparse || config.num_experts_per_tok > 0, "layer {}", layer);
  }
}

void check_generation_defaults(std::string_view text) {
  const auto defaults = chorale::io::parse_generation_defaults(text, "generation_config.json");
  CHORALE_CHECK(defaults.top_p.value_or(1.0) > 0 && defaults.top_p.value_or(1.0) <= 1, "top_p");
  CHORALE_CHECK(defaults.temperature.value_or(0.0) >= 0, "temperature");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(data, data + size);
  for (const auto check : {check_model_config, check_generation_defaults}) {
    try {
      check(text);
    } catch (const chorale::Error&) {
      // refused, as it should be
    }
  }
  return 0;
}
