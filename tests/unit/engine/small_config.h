#pragma once

#include "io/model_config.h"

namespace chorale::engine {

// A model as small as a slow device wants it, that all strategies of these tests can split.
inline io::ModelConfig small_config() {
  io::ModelConfig c;
  c.architecture = "Qwen3MoeForCausalLM";
  c.vocab_size = 4096;
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 4;
  c.head_dim = 8;
  c.moe_intermediate_size = 16;
  c.num_experts = 16;
  c.num_experts_per_tok = 4;
  c.norm_topk_prob = true;
  c.max_position_embeddings = 2048;
  return c;
}

}  // namespace chorale::engine
