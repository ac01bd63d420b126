#include <array>
#include <optional>

#include <fmt/format.h>

#include "server/chat/tool_call_format.h"
#include "server/chat/tool_grammar_writer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

// Finds where one JSON value ends, by its brackets and strings.
class ValueEnd {
 public:
  enum class Step { more, last, after, bad };  // the byte is inside, the last, behind, or wrong

  Step push(char c) {
    if (in_string_) return push_in_string(c);
    switch (c) {
      case '"':
        if (in_scalar_) return Step::bad;
        in_string_ = true;
        return Step::more;
      case '{':
      case '[':
        if (in_scalar_) return Step::bad;
        open_ += c == '{' ? '}' : ']';
        return Step::more;
      case '}':
      case ']':
        if (open_.empty()) return Step::after;
        if (open_.back() != c) return Step::bad;
        open_.pop_back();
        return open_.empty() ? Step::last : Step::more;
      case ',':
      case ':':
        return open_.empty() ? Step::after : Step::more;
      default:
        if (is_tool_space(c)) return open_.empty() ? Step::after : Step::more;
        if (!may_be_in_scalar(c)) return Step::bad;
        if (open_.empty()) in_scalar_ = true;
        return Step::more;
    }
  }

 private:
  static bool may_be_in_scalar(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
  }

  Step push_in_string(char c) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      if (open_.empty()) return Step::last;
    }
    return Step::more;
  }

  std::string open_;  // the closing brackets that are due
  bool in_string_ = false;
  bool escaped_ = false;
  bool in_scalar_ = false;  // a number or a word, outside of brackets
};

// The text of a JSON string, quotes included; nullopt when it is none.
std::optional<std::string> read_string(const std::string& text) {
  const Json value = Json::parse(text, nullptr, false);
  if (!value.is_string()) return std::nullopt;
  return value.get<std::string>();
}

class JsonScanner : public ToolCallScanner {
 public:
  JsonScanner() : ToolCallScanner(kToolCallClose) {}

  Step push(char c) override {
    if (closing()) return push_closing(c);
    switch (state_) {
      case State::object:
        return expect(c, '{', State::first_key);
      case State::first_key:
        if (c == '}') return end_object();
        return key_begins(c);
      case State::next_key:
        return key_begins(c);
      case State::key:
        return in_key(c);
      case State::colon:
        return expect(c, ':', State::value_begins);
      case State::value_begins:
        return value_begins(c);
      case State::value:
        return in_value(c);
      case State::after_value:
        return after_value(c);
    }
    return Step::refuse;
  }

 private:
  enum class State { object, first_key, next_key, key, colon, value_begins, value, after_value };

  Step expect(char c, char expected, State next) {
    if (c == expected) {
      state_ = next;
    } else if (!is_tool_space(c)) {
      return Step::refuse;
    }
    return Step::more;
  }

  Step key_begins(char c) {
    if (is_tool_space(c)) return Step::more;
    if (c != '"') return Step::refuse;
    state_ = State::key;
    value_ = {};
    value_.push(c);
    held_ = c;
    return Step::more;
  }

  Step in_key(char c) {
    held_ += c;
    if (value_.push(c) == ValueEnd::Step::more) return Step::more;
    const auto key = read_string(held_);
    if (!key) return Step::refuse;
    key_ = *key;
    state_ = State::colon;
    return Step::more;
  }

  bool in_name() const { return key_ == "name"; }
  bool in_arguments() const { return key_ == "arguments" || key_ == "parameters"; }

  Step value_begins(char c) {
    if (is_tool_space(c)) return Step::more;
    if (in_name() && (c != '"' || !name_.empty())) return Step::refuse;
    if (in_arguments() && (c != '{' || has_arguments_)) return Step::refuse;
    state_ = State::value;
    value_ = {};
    held_.clear();
    if (in_arguments()) {
      has_arguments_ = true;
      started_ = !name_.empty();
    }
    return in_value(c);
  }

  Step in_value(char c) {
    const ValueEnd::Step step = value_.push(c);
    if (step == ValueEnd::Step::bad) return Step::refuse;
    if (step == ValueEnd::Step::after) {
      if (!had_value_) return Step::refuse;
      state_ = State::after_value;
      complete_ = started_;
      return after_value(c);
    }
    had_value_ = true;
    if (in_arguments()) arguments_ += c;
    if (in_name()) held_ += c;
    if (step == ValueEnd::Step::last) return value_ends();
    return Step::more;
  }

  Step value_ends() {
    state_ = State::after_value;
    if (in_name()) {
      name_ = read_string(held_).value_or("");
      if (name_.empty()) return Step::refuse;
      started_ = has_arguments_;
    }
    complete_ = started_;
    return Step::more;
  }

  Step after_value(char c) {
    had_value_ = false;
    if (is_tool_space(c)) return Step::more;
    if (c == ',') {
      complete_ = false;
      state_ = State::next_key;
      return Step::more;
    }
    if (c == '}') return end_object();
    if (c != '<' || !complete_) return Step::refuse;
    closing_ = true;
    return push_closing(c);
  }

  Step end_object() {
    if (name_.empty()) return Step::refuse;
    if (!has_arguments_) arguments_ = "{}";
    started_ = true;
    complete_ = true;
    closing_ = true;
    return Step::more;
  }

  State state_ = State::object;
  ValueEnd value_;
  std::string held_;  // the key or the name, as JSON text
  std::string key_;
  bool has_arguments_ = false;
  bool had_value_ = false;  // the value has at least one byte
};

// Any text may be a template's that asks for this form.
bool is_asked_for(std::string_view /*text*/) {
  return true;
}

std::unique_ptr<ToolCallScanner> make_scanner(std::string_view /*opening_tag*/,
                                              const std::vector<Tool>& /*tools*/) {
  return std::make_unique<JsonScanner>();
}

void add_call(ToolGrammarWriter& grammar, const std::string& rule, const Tool& tool) {
  const std::string open = fmt::format("\n{{\"name\": {}, \"arguments\": ", grammar_literal(tool.name));
  grammar.add(rule, fmt::format("{} {} {}_arguments {} {}", grammar.tag(kToolCallOpen), grammar_literal(open),
                                rule, grammar_literal("}\n"), grammar.tag(kToolCallClose)));
  grammar.add(rule + "_arguments", grammar_json(arguments_schema(tool)));
}

constexpr std::array kOpeningTags = {kToolCallOpen};
constexpr std::array kTokenTags = {kToolCallOpen, kToolCallClose};

}  // namespace

constinit const ToolCallFormat kJsonToolCalls = {.is_asked_for = &is_asked_for,
                                                 .opening_tags = kOpeningTags,
                                                 .token_tags = kTokenTags,
                                                 .make_scanner = &make_scanner,
                                                 .add_call = &add_call,
                                                 .arguments_are_objects = false};

}  // namespace chorale::server
