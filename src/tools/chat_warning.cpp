#include "tools/chat_warning.h"

#include <variant>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::tools {
namespace {

constexpr const char* kPlainChat =
    R"({"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": true})";

}  // namespace

std::optional<std::string> chat_warning(const std::optional<text::ChatTemplate>& chat) {
  if (!chat) return "there is no chat template: chat requests will be refused, completions work";
  if (const auto error = chat->error())
    return fmt::format(
        "the chat template does not parse: chat requests will be refused, completions work. {}", *error);
  const auto rendered = chat->render(kPlainChat);
  if (const auto* error = std::get_if<RequestError>(&rendered)) {
    return fmt::format(
        "the chat template fails on a plain chat: such requests will be refused, completions work. {}",
        error->message);
  }
  return std::nullopt;
}

}  // namespace chorale::tools
