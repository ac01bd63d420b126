// What tokenizer_config.json says of the tokenizer beside its vocabulary.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace chorale::io {

struct TokenizerConfig {
  std::optional<std::string> tokenizer_class;
  // As texts of tokens.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<std::string> unk_token;
  // The one for chats without tools, whether it stands here or in chat_template.jinja.
  std::optional<std::string> chat_template;

  bool operator==(const TokenizerConfig&) const = default;
};

// Parses the text of a tokenizer_config.json. Throws Error that names `source` for what is no JSON object;
// fields of other types than these count as absent.
TokenizerConfig parse_tokenizer_config(std::string_view json_text, std::string_view source);

// Reads `directory`/tokenizer_config.json, special_tokens_map.json for tokens that are not named there, and
// chat_template.jinja, as far as they are there.
TokenizerConfig load_tokenizer_config(const std::filesystem::path& directory);

}  // namespace chorale::io
