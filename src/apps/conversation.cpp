#include "apps/conversation.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "apps/suggest.h"

namespace chorale::apps {
namespace {

using Kind = ChatLine::Kind;

struct Command {
  std::string_view name;
  Kind kind;
  std::string_view help;  // empty: another name of the one above
};
constexpr std::array kCommands = {
    Command{"/help", Kind::help, "this list"},
    Command{"/?", Kind::help, ""},
    Command{"/clear", Kind::clear, "begin a new conversation; the system prompt stays"},
    Command{"/new", Kind::clear, ""},
    Command{"/reset", Kind::clear, ""},
    Command{"/system", Kind::system, "TEXT is the system prompt from now on; without TEXT there is none"},
    Command{"/regen", Kind::again, "answer the last message anew"},
    Command{"/retry", Kind::again, ""},
    Command{"/exit", Kind::leave, "leave, as Ctrl-D does"},
    Command{"/quit", Kind::leave, ""},
    Command{"/bye", Kind::leave, ""},
};
constexpr std::array<std::string_view, 2> kModelSwitches = {"/think", "/no_think"};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

bool is_command(std::string_view word) {
  if (word.size() < 2 || word.front() != '/') return false;
  if (std::ranges::find(kModelSwitches, word) != kModelSwitches.end()) return false;
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '?'; };
  return std::ranges::all_of(word.substr(1), is_letter);
}

}  // namespace

ChatLine read_chat_line(std::string_view line) {
  const std::string_view text = trimmed(line);
  if (text.empty()) return {};
  const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
  if (!is_command(word)) return {Kind::message, std::string(text)};
  const auto command = std::ranges::find(kCommands, word, &Command::name);
  if (command == kCommands.end()) return {Kind::unknown, std::string(word)};
  return {command->kind, std::string(trimmed(text.substr(word.size())))};
}

std::string chat_help() {
  std::string out;
  for (size_t i = 0; i < kCommands.size();) {
    std::string names(kCommands[i].name);
    if (kCommands[i].kind == Kind::system) names += " TEXT";
    const std::string_view help = kCommands[i].help;
    for (++i; i < kCommands.size() && kCommands[i].help.empty(); ++i)
      names += fmt::format(", {}", kCommands[i].name);
    out += fmt::format("  {:<24} {}\n", names, help);
  }
  return out +
         "A line that ends with \\ goes on in the next one. Ctrl-C stops an answer, Ctrl-D leaves.\n"
         "/think and /no_think are for the model.\n";
}

std::optional<std::string> nearest_chat_command(std::string_view command) {
  std::vector<std::string> names;
  for (const Command& known : kCommands) names.emplace_back(known.name.substr(1));
  const auto name = nearest(command.substr(1), names);
  return name ? std::optional("/" + *name) : std::nullopt;
}

void Conversation::ask(std::string text) {
  turns_.push_back({{"role", "user"}, {"content", std::move(text)}});
}

void Conversation::answer(std::string text, std::string reasoning) {
  server::Json message = {{"role", "assistant"}, {"content", std::move(text)}};
  if (!reasoning.empty()) message["reasoning_content"] = std::move(reasoning);
  turns_.push_back(std::move(message));
}

bool Conversation::reopen() {
  if (turns_.empty()) return false;
  if (turns_.back()["role"] == "assistant") turns_.erase(turns_.size() - 1);
  return true;
}

server::Json Conversation::messages() const {
  server::Json messages = server::Json::array();
  if (!system_.empty()) messages.push_back({{"role", "system"}, {"content", system_}});
  for (const server::Json& turn : turns_) messages.push_back(turn);
  return messages;
}

}  // namespace chorale::apps
