// A chat at the terminal: what its lines mean, and the messages so far.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/wire/json_body.h"

namespace chorale::apps {

// What a line says. Lines that begin with a slash and a word of letters are commands, but for Qwen3's
// switches /think and /no_think, which are for the model; all others are messages, /usr/bin among them.
struct ChatLine {
  enum class Kind { nothing, message, help, leave, clear, system, again, unknown };
  Kind kind = Kind::nothing;
  std::string text;  // the message, what follows a command, or the unknown command
};
ChatLine read_chat_line(std::string_view line);

// What /help shows.
std::string chat_help();

// "/regne" -> "/regen"; nullopt: no command is near.
std::optional<std::string> nearest_chat_command(std::string_view command);

// The messages of a chat, in the form that chat templates read. Not thread-safe.
class Conversation {
 public:
  // Of all that follows, and of what was said before; empty: none.
  void set_system(std::string text) { system_ = std::move(text); }
  // Forgets the messages, not the system prompt.
  void clear() { turns_ = server::Json::array(); }

  void ask(std::string text);
  // What the last message got; either may be empty.
  void answer(std::string text, std::string reasoning);
  // Takes the last answer back, so that its message is open again. False: there is no message.
  bool reopen();

  // The system prompt and the messages.
  server::Json messages() const;

 private:
  std::string system_;
  server::Json turns_ = server::Json::array();
};

}  // namespace chorale::apps
