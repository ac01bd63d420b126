// The chat template of a checkpoint, rendered by the Rust crate `minijinja` with its Python-method
// compatibility.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/error.h"

namespace chorale::text {

class ChatTemplate {
 public:
  // Looks for chat_template.jinja, then chat_template of tokenizer_config.json (a string, or a list of named
  // templates, of which "default" is taken). Where there is one named "tool_use", there or in
  // additional_chat_templates/tool_use.jinja, chats with tools are rendered by that. nullopt when the
  // checkpoint has none. A template that does not parse is kept and reported by error(): the server goes on
  // without chat.
  static std::optional<ChatTemplate> load(const std::filesystem::path& directory);
  // A template from a file of its own, for chats with tools, too; of the checkpoint are the special tokens.
  // error() begins with the file it is about, and tells the line.
  static ChatTemplate load(const std::filesystem::path& directory, const std::filesystem::path& file);
  // From the template's text; bos and eos become the variables bos_token and eos_token.
  static ChatTemplate from_source(std::string_view source, std::string_view bos_token,
                                  std::string_view eos_token);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Why the template cannot be used, or nullopt.
  std::optional<std::string> error() const;

  // The text of a template from a file of its own; empty: it is the checkpoint's.
  const std::string& given_text() const;

  // Renders with the given variables, a JSON object as text: at least "messages" and "add_generation_prompt",
  // optionally "tools", "enable_thinking", ... Objects keep the order of their keys. Time and output are
  // bounded. A template that fails or raises is an `invalid` RequestError, for the client to read.
  // Thread-safe.
  std::variant<std::string, RequestError> render(std::string_view variables_json) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::text
