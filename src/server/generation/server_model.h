// What is served: the engine and what stands around it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/engine.h"
#include "engine/strategy_switch.h"
#include "io/model_config.h"
#include "parallel/expert_placement.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace chorale::server {

// The model that is served. The references must outlive the server.
struct ServerModel {
  engine::Engine& engine;
  const text::Tokenizer& tokenizer;
  const text::ChatTemplate* chat = nullptr;   // nullptr: the checkpoint has none; chat requests get a 400
  text::GrammarCompiler* grammars = nullptr;  // nullptr: output cannot be constrained
  io::GenerationDefaults defaults;            // sampling where a request says nothing
  int64_t max_context_len = 0;                // tokens, prompt plus output
  int64_t vocab_size = 0;                     // rows of the embedding; bounds token ids. 0: the tokenizer's
  std::string model_path;
  const parallel::ExpertPlacement* placement = nullptr;  // nullptr: a model without experts
  engine::StrategySwitch* strategy_switch = nullptr;     // nullptr: the strategy stays
  // For information:
  std::string dtype;                  // "bfloat16" or "float32"
  std::string quantization = "none";  // the weights' form
  std::string device = "cpu";         // as --device names it
  std::string device_description;     // such as "NVIDIA H200"; empty for the CPU
  // Bytes, asked for whenever metrics are; thread-safe, may throw Error. Empty for the CPU.
  std::function<uint64_t()> free_device_memory = nullptr;
  std::string instruction_set;
  std::string version;   // Chorale's
  std::string strategy;  // that it began with: "tp=1,dp=1,ep=1,moe_tp=1,moe_dp=1"
  int64_t num_layers = 0;
  int64_t num_experts = 0;
  int64_t num_experts_per_token = 0;

  std::string current_strategy() const {
    return strategy_switch != nullptr ? strategy_switch->current() : strategy;
  }
};

}  // namespace chorale::server
