#include <array>
#include <cctype>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "server/chat/tool_call_format.h"
#include "server/chat/tool_grammar_writer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

// Reads one JSON value and gives its text, mended where models often err: control characters in strings are
// escaped. All else that is not JSON is wrong.
class ValueReader {
 public:
  enum class Step { more, last, after, bad };  // the byte is inside, the last, behind, or wrong

  Step push(char c) {
    if (in_string_) return push_in_string(c);
    if (!scalar_.empty()) {
      if (may_be_in_scalar(c)) {
        scalar_ += c;
        return Step::more;
      }
      if (!Json::accept(scalar_)) return Step::bad;
      text_ += std::exchange(scalar_, {});
      expect_ = Expect::comma_or_end;
      if (open_.empty()) return Step::after;
    }
    if (is_tool_space(c)) {
      text_ += c;
      return Step::more;
    }
    return push_outside(c);
  }

  // What came of the text since the last time.
  std::string take() { return std::exchange(text_, {}); }

 private:
  enum class Expect { value, value_or_end, key, key_or_end, colon, comma_or_end };

  static bool may_be_in_scalar(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
  }

  bool expects_value() const { return expect_ == Expect::value || expect_ == Expect::value_or_end; }
  bool expects_key() const { return expect_ == Expect::key || expect_ == Expect::key_or_end; }

  // Neither white space nor in a string or scalar.
  Step push_outside(char c) {
    switch (c) {
      case '"':
        if (!expects_value() && !expects_key()) return Step::bad;
        in_string_ = true;
        break;
      case '{':
      case '[':
        if (!expects_value()) return Step::bad;
        open_ += c == '{' ? '}' : ']';
        expect_ = c == '{' ? Expect::key_or_end : Expect::value_or_end;
        break;
      case '}':
      case ']':
        return close(c);
      case ',':
        if (expect_ != Expect::comma_or_end) return Step::bad;
        expect_ = open_.back() == '}' ? Expect::key : Expect::value;
        break;
      case ':':
        if (expect_ != Expect::colon) return Step::bad;
        expect_ = Expect::value;
        break;
      default:
        if (!expects_value() || !may_be_in_scalar(c)) return Step::bad;
        scalar_ = c;
        return Step::more;
    }
    text_ += c;
    return Step::more;
  }

  Step close(char c) {
    const Expect empty = c == '}' ? Expect::key_or_end : Expect::value_or_end;
    if (open_.empty() || open_.back() != c || (expect_ != Expect::comma_or_end && expect_ != empty)) {
      return Step::bad;
    }
    text_ += c;
    open_.pop_back();
    return ended();
  }

  Step push_in_string(char c) {
    if (!escape_.empty()) return push_in_escape(c);
    if (c == '\\') {
      escape_ = c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      const std::string quoted = to_text(Json(std::string(1, c)));
      text_ += quoted.substr(1, quoted.size() - 2);
    } else {
      text_ += c;
      if (c == '"') {
        in_string_ = false;
        return ended();
      }
    }
    return Step::more;
  }

  Step push_in_escape(char c) {
    constexpr size_t kUnicodeSize = 6;  // \u00e9
    const bool unicode = escape_.size() > 1;
    if (unicode ? std::isxdigit(static_cast<unsigned char>(c)) == 0
                : std::string_view("\"\\/bfnrtu").find(c) == std::string_view::npos) {
      return Step::bad;
    }
    escape_ += c;
    if (escape_[1] != 'u' || escape_.size() == kUnicodeSize) text_ += std::exchange(escape_, {});
    return Step::more;
  }

  // A string or a bracket has.
  Step ended() {
    expect_ = expects_key() && !open_.empty() && text_.back() == '"' ? Expect::colon : Expect::comma_or_end;
    return open_.empty() ? Step::last : Step::more;
  }

  std::string open_;  // the closing brackets that are due
  Expect expect_ = Expect::value;
  bool in_string_ = false;
  std::string escape_;  // of a string, as far as it has come
  std::string scalar_;  // a number or a word, as far as it has come
  std::string text_;
};

// The text of the JSON object that a string holds, or of one without members where it holds none; nullopt
// where it holds anything else.
std::optional<std::string> unwrap_object(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \n\t\r");
  if (begin == std::string::npos) return "{}";
  const size_t end = text.find_last_not_of(" \n\t\r") + 1;
  const std::string_view inner = std::string_view(text).substr(begin, end - begin);
  if (inner == "null") return "{}";
  if (inner.front() != '{') return std::nullopt;
  ValueReader reader;
  for (size_t i = 0; i < inner.size(); ++i) {
    const bool is_last = i + 1 == inner.size();
    if (reader.push(inner[i]) != (is_last ? ValueReader::Step::last : ValueReader::Step::more)) {
      return std::nullopt;
    }
  }
  return reader.take();
}

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
    return Step::more;
  }

  Step in_key(char c) {
    const ValueReader::Step step = value_.push(c);
    if (step == ValueReader::Step::bad) return Step::refuse;
    if (step == ValueReader::Step::more) return Step::more;
    const auto key = read_string(value_.take());
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
    if (in_arguments() && (has_arguments_ || (c != '{' && c != '"' && c != 'n'))) return Step::refuse;
    state_ = State::value;
    value_ = {};
    streams_ = in_arguments() && c == '{';
    if (streams_) {
      has_arguments_ = true;
      started_ = !name_.empty();
    }
    return in_value(c);
  }

  Step in_value(char c) {
    const ValueReader::Step step = value_.push(c);
    if (step == ValueReader::Step::bad) return Step::refuse;
    if (streams_) arguments_ += value_.take();
    if (step == ValueReader::Step::more) return Step::more;
    const Step ended = value_ends();
    return ended == Step::more && step == ValueReader::Step::after ? after_value(c) : ended;
  }

  Step value_ends() {
    state_ = State::after_value;
    const std::string text = streams_ ? "" : value_.take();
    if (in_name()) {
      name_ = read_string(text).value_or("");
      if (name_.empty()) return Step::refuse;
      started_ = has_arguments_;
    }
    if (in_arguments() && !streams_) {  // null, or a string that holds the object
      const auto object = unwrap_object(text == "null" ? text : read_string(text).value_or("?"));
      if (!object) return Step::refuse;
      arguments_ += *object;
      has_arguments_ = true;
      started_ = !name_.empty();
    }
    complete_ = started_;
    return Step::more;
  }

  Step after_value(char c) {
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
  ValueReader value_;
  std::string key_;
  bool has_arguments_ = false;
  bool streams_ = false;  // the value is told as it comes
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
  grammar.add(rule + "_arguments", grammar_json(arguments_schema(tool), !tool.strict));
}

constexpr std::array kOpeningTags = {kToolCallOpen};
constexpr std::array kTokenTags = {kToolCallOpen, kToolCallClose};

}  // namespace

constinit const ToolCallFormat kJsonToolCalls = {.is_asked_for = &is_asked_for,
                                                 .opening_tags = kOpeningTags,
                                                 .token_tags = kTokenTags,
                                                 .all_tags = kTokenTags,
                                                 .make_scanner = &make_scanner,
                                                 .add_call = &add_call,
                                                 .arguments_are_objects = false};

}  // namespace chorale::server
