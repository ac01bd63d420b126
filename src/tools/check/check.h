// Validation of a checkpoint's folder without serving it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/model_config.h"

namespace chorale::tools {

struct EndToken {
  int32_t id = 0;
  std::string text;
};

struct CheckReport {
  std::vector<std::string> errors;    // what keeps the model from being served
  std::vector<std::string> warnings;  // what is odd, or costs a part of the service
  std::optional<io::ModelConfig> config;
  int64_t num_tensors = 0;
  int64_t num_parameters = 0;
  uint64_t weight_bytes = 0;
  int64_t tokenizer_vocab_size = 0;
  bool has_chat_template = false;    // one that works
  std::vector<EndToken> end_tokens;  // that end an answer

  bool ok() const { return errors.empty(); }
};

// Checks config.json, generation_config.json, the weights (structure, names, shapes, types and every value
// for NaN), the tokenizer and the chat template. Goes on after an error as far as it can. Never throws for
// what is in the files.
CheckReport check_checkpoint(const std::filesystem::path& directory, ThreadPool& pool);

}  // namespace chorale::tools
