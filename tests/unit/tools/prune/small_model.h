// A folder with a tiny Qwen3-MoE checkpoint of random weights, in the types and with the dense layers that a
// test wants.
#pragma once

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/float16.h"
#include "io/checkpoint.h"
#include "io/pending_file.h"

namespace chorale::tools {

struct SmallModel {
  int64_t layers = 3;
  int64_t experts = 5;
  int64_t hidden = 8;
  int64_t width = 6;
  std::vector<int64_t> dense;  // layers without experts
  DType dtype = DType::bf16;   // of matrices
  DType router_dtype = DType::bf16;
  std::string experts_field = "num_experts";
  unsigned seed = 1;

  // Field order, and the values of fields that are not of the model, are what a test may look for.
  nlohmann::ordered_json config() const {
    return {{"zeta", {{"kept", true}}},
            {"architectures", {"Qwen3MoeForCausalLM"}},
            {"moe_intermediate_size", width},
            {"hidden_size", hidden},
            {"intermediate_size", 4},
            {experts_field, experts},
            {"num_attention_heads", 2},
            {"num_key_value_heads", 1},
            {"head_dim", 4},
            {"mlp_only_layers", dense},
            {"rms_norm_eps", 1e-06},
            {"num_experts_per_tok", 2},
            {"num_hidden_layers", layers},
            {"tie_word_embeddings", true},
            {"vocab_size", 16},
            {"alpha", "\u00e9"}};
  }

  void write(const std::filesystem::path& folder) const {
    io::write_text_file(folder / "config.json", config().dump(1));
    std::mt19937 random(seed);
    std::vector<std::string> contents;
    std::vector<io::TensorToWrite> tensors;
    const auto add = [&](std::string name, std::vector<int64_t> shape, DType type) {
      tensors.push_back({std::move(name), type, std::move(shape), {}});
      size_t count = 1;
      for (const int64_t size : tensors.back().shape) count *= static_cast<size_t>(size);
      contents.push_back(random_bytes(random, count, type));
    };
    add("model.norm.weight", {hidden}, DType::f32);
    for (int64_t l = layers; l-- > 0;) add_layer(l, add);
    add("model.embed_tokens.weight", {16, hidden}, dtype);
    add("lm_head.weight", {16, hidden}, dtype);  // tied, and in the file all the same
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].bytes = std::as_bytes(std::span(contents[i]));
    io::write_safetensors(folder / "model.safetensors", tensors);
  }

 private:
  template <typename Add>
  void add_layer(int64_t layer, const Add& add) const {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    add(p + "input_layernorm.weight", {hidden}, DType::f32);
    add(p + "post_attention_layernorm.weight", {hidden}, DType::f32);
    add(p + "self_attn.q_proj.weight", {8, hidden}, dtype);
    add(p + "self_attn.k_proj.weight", {4, hidden}, dtype);
    add(p + "self_attn.v_proj.weight", {4, hidden}, dtype);
    add(p + "self_attn.o_proj.weight", {hidden, 8}, dtype);
    add(p + "self_attn.q_norm.weight", {4}, dtype);
    add(p + "self_attn.k_norm.weight", {4}, dtype);
    const auto add_mlp = [&](const std::string& prefix, int64_t rows) {
      add(prefix + "gate_proj.weight", {rows, hidden}, dtype);
      add(prefix + "up_proj.weight", {rows, hidden}, dtype);
      add(prefix + "down_proj.weight", {hidden, rows}, dtype);
    };
    if (std::ranges::count(dense, layer) > 0) return add_mlp(p + "mlp.", 4);
    for (int64_t e = 0; e < experts; ++e) add_mlp(p + "mlp.experts." + std::to_string(e) + ".", width);
    add(p + "mlp.gate.weight", {experts, hidden}, router_dtype);
  }

  static std::string random_bytes(std::mt19937& random, size_t count, DType type) {
    std::normal_distribution<float> normal;
    std::string bytes;
    const auto append = [&](auto value) {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    for (size_t i = 0; i < count; ++i) {
      const float value = normal(random);
      if (type == DType::f32) append(value);
      if (type == DType::bf16) append(to_bf16(value));
      if (type == DType::f16) append(to_f16(value));
    }
    return bytes;
  }
};

}  // namespace chorale::tools
