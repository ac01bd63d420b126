#include "io/tokenizer_config.h"

#include "io/file_access.h"
#include "io/json_reader.h"

namespace chorale::io {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;

std::optional<std::string> text_of(const json& value) {
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

std::optional<std::string> text_in(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? std::nullopt : text_of(*found);
}

// A token is written as its text, or as an object with it.
std::optional<std::string> token_in(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return std::nullopt;
  return found->is_object() ? text_in(*found, "content") : text_of(*found);
}

// One template, or a list of named ones.
std::optional<std::string> template_in(const json& object) {
  const auto found = object.find("chat_template");
  if (found == object.end() || !found->is_array()) return text_in(object, "chat_template");
  for (const json& entry : *found) {
    if (entry.is_object() && text_in(entry, "name") == "default") return text_in(entry, "template");
  }
  return std::nullopt;
}

// Older checkpoints name their special tokens there alone. What is named in tokenizer_config.json holds.
void add_special_tokens(const std::filesystem::path& file, TokenizerConfig& config) {
  if (!has_entry(file)) return;
  const json document = parse_json_object(read_checkpoint_text(file, kMaxConfigBytes), file.string());
  if (!config.bos_token) config.bos_token = token_in(document, "bos_token");
  if (!config.eos_token) config.eos_token = token_in(document, "eos_token");
  if (!config.pad_token) config.pad_token = token_in(document, "pad_token");
  if (!config.unk_token) config.unk_token = token_in(document, "unk_token");
}

}  // namespace

TokenizerConfig parse_tokenizer_config(std::string_view json_text, std::string_view source) {
  const json document = parse_json_object(json_text, source);
  return {.tokenizer_class = text_in(document, "tokenizer_class"),
          .bos_token = token_in(document, "bos_token"),
          .eos_token = token_in(document, "eos_token"),
          .pad_token = token_in(document, "pad_token"),
          .unk_token = token_in(document, "unk_token"),
          .chat_template = template_in(document)};
}

TokenizerConfig load_tokenizer_config(const std::filesystem::path& directory) {
  TokenizerConfig config;
  const std::filesystem::path file = directory / "tokenizer_config.json";
  if (has_entry(file))
    config = parse_tokenizer_config(read_checkpoint_text(file, kMaxConfigBytes), file.string());
  add_special_tokens(directory / "special_tokens_map.json", config);
  const std::filesystem::path jinja = directory / "chat_template.jinja";
  if (has_entry(jinja)) config.chat_template = read_checkpoint_text(jinja, kMaxConfigBytes);
  return config;
}

}  // namespace chorale::io
