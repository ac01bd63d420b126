#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "server/chat/raw_values.h"
#include "server/chat/tool_call_format.h"
#include "server/chat/tool_grammar_writer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

constexpr std::string_view kFunctionOpen = "<function=";
constexpr std::string_view kParameterOpen = "<parameter=";
constexpr std::string_view kParameterClose = "</parameter>";
constexpr std::string_view kFunctionClose = "</function>";

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_tool_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_tool_space(text.back())) text.remove_suffix(1);
  return text;
}

// The type of a valid JSON text, by its first byte. Whole numbers are "number", too.
std::string type_of_text(std::string_view json) {
  switch (json.front()) {
    case '{':
      return "object";
    case '[':
      return "array";
    case '"':
      return "string";
    case 't':
    case 'f':
      return "boolean";
    case 'n':
      return "null";
    default:
      return "number";
  }
}

// The JSON text that a value stands for, or nullopt: it is a string.
std::optional<std::string> json_value(std::string_view value, const std::set<std::string>& types) {
  if (types.empty() || (types.size() == 1 && types.contains("string"))) return std::nullopt;
  std::string text(trim(value));
  if (text == "True" && types.contains("boolean")) text = "true";
  if (text == "False" && types.contains("boolean")) text = "false";
  if (text == "None") text = "null";
  if (!Json::accept(text)) return std::nullopt;
  const std::string type = type_of_text(text);
  const bool listed = types.contains(type) || (type == "number" && types.contains("integer"));
  if (types.contains("string") && (!listed || type == "string")) return std::nullopt;
  return text;
}

// Reads a tag of a call, byte by byte. Before the > of a closing one there may be white space or a slash.
class TagReader {
 public:
  enum class Step { more, none, complete };  // the byte goes on with a tag, does not, is its last

  Step push(char c) {
    if ((is_tool_space(c) || c == '/') && lacks_end()) return Step::more;
    tag_ += c;
    if (std::ranges::find(kTags, tag_) != kTags.end()) return Step::complete;
    const auto begins = [this](std::string_view tag) { return tag.starts_with(tag_); };
    return std::ranges::any_of(kTags, begins) ? Step::more : Step::none;
  }

  const std::string& tag() const { return tag_; }

 private:
  static constexpr std::array kTags = {kFunctionOpen, kParameterOpen, kParameterClose, kFunctionClose,
                                       kToolCallClose};

  // Whether nothing but the > of a closing tag is missing.
  bool lacks_end() const {
    return std::ranges::any_of(kTags, [this](std::string_view tag) {
      return tag.ends_with('>') && tag.substr(0, tag.size() - 1) == tag_;
    });
  }

  std::string tag_;
};

// Tells the end of a parameter's value from text in it that looks like a tag. Reads what stands from a < on:
// the value ends before </parameter> where a tag of the call follows it, and before such a tag.
class ValueEnd {
 public:
  enum class Step { more, none, ends };  // this may be the end, is not, is the end and the tag that follows

  Step push(char c) {
    if (tag_.tag().empty()) {
      if (closed_ && is_tool_space(c)) return Step::more;
      if (c != '<') return Step::none;
    }
    const TagReader::Step step = tag_.push(c);
    if (step == TagReader::Step::more) return Step::more;
    if (step == TagReader::Step::none || tag_.tag() == kFunctionOpen) return Step::none;
    if (tag_.tag() != kParameterClose) return Step::ends;
    if (closed_) return Step::none;
    closed_ = true;
    tag_ = {};
    return Step::more;
  }

  const std::string& next_tag() const { return tag_.tag(); }

 private:
  bool closed_ = false;  // </parameter> has come
  TagReader tag_;
};

// The bytes of a JSON string that stand for these of a text.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20) {
      const std::string quoted = to_text(Json(std::string(1, c)));
      out += quoted.substr(1, quoted.size() - 2);
    } else {
      out += c;
    }
  }
  return out;
}

class XmlScanner : public ToolCallScanner {
 public:
  XmlScanner(const std::vector<Tool>& tools, bool inside_function_tag)
      : ToolCallScanner(kToolCallClose),
        tools_(tools),
        state_(inside_function_tag ? State::name : State::function) {}

  Step push(char c) override {
    if (closing()) return push_closing(c);
    switch (state_) {
      case State::function:
      case State::body:
        return in_tag(c);
      case State::name:
      case State::key:
        return in_name(c);
      case State::value:
        return in_value(c);
    }
    return Step::refuse;
  }

 private:
  enum class State { function, name, body, key, value };

  // White space, then a tag.
  Step in_tag(char c) {
    if (tag_.tag().empty() && is_tool_space(c)) return Step::more;
    switch (tag_.push(c)) {
      case TagReader::Step::more:
        return Step::more;
      case TagReader::Step::none:
        return Step::refuse;
      case TagReader::Step::complete:
        break;
    }
    return tag_ends(std::exchange(tag_, {}).tag());
  }

  Step tag_ends(const std::string& tag) {
    if ((tag == kFunctionOpen) != (state_ == State::function) || tag == kParameterClose) return Step::refuse;
    if (tag == kFunctionOpen) {
      state_ = State::name;
    } else if (tag == kParameterOpen) {
      state_ = State::key;
    } else {
      arguments_ += keys_.empty() ? "{}" : "}";
      started_ = true;
      complete_ = true;
      closing_ = true;
    }
    return tag == kToolCallClose ? Step::done : Step::more;
  }

  // The rest of <function=name> or <parameter=key>. A line break in place of the > is forgiven.
  Step in_name(char c) {
    if (c == '<') return Step::refuse;
    if (c != '>' && c != '\n') {
      held_ += c;
      return Step::more;
    }
    const std::string name(trim(held_));
    if (name.empty()) return Step::refuse;
    held_.clear();
    if (state_ == State::name) {
      name_ = name;
      state_ = State::body;
      return Step::more;
    }
    begin_value(name);
    return c == '\n' ? in_value(c) : Step::more;
  }

  void begin_value(const std::string& key) {
    state_ = State::value;
    is_new_ = keys_.insert(key).second;
    at_begin_ = true;
    types_ = types_of(key);
    streams_ = types_.empty() || (types_.size() == 1 && types_.contains("string"));
    open_ = (keys_.size() == 1 ? "{" : ", ") + to_text(Json(key)) + ": ";
    if (is_new_ && streams_) {
      arguments_ += std::exchange(open_, {}) + "\"";
      started_ = true;
    }
  }

  Step in_value(char c) {
    if (held_.empty() && c != '<') {
      take_line_break();
      if (c == '\n') {
        line_break_ = !at_begin_;
      } else {
        add_to_value({&c, 1});
      }
      at_begin_ = false;
      return Step::more;
    }
    at_begin_ = false;
    held_ += c;
    switch (end_.push(c)) {
      case ValueEnd::Step::more:
        return Step::more;
      case ValueEnd::Step::ends:
        return value_ends();
      case ValueEnd::Step::none:
        break;
    }
    // All of it is text; only what follows the first byte may begin the end.
    const std::string text = std::exchange(held_, {});
    end_ = {};
    take_line_break();
    add_to_value(std::string_view(text).substr(0, 1));
    for (const char next : text.substr(1)) in_value(next);
    return Step::more;
  }

  void take_line_break() {
    if (std::exchange(line_break_, false)) add_to_value("\n");
  }

  void add_to_value(std::string_view text) {
    if (!is_new_) return;
    if (streams_) {
      arguments_ += escaped(text);
    } else {
      value_ += text;
    }
  }

  Step value_ends() {
    line_break_ = false;
    held_.clear();
    const std::string value = std::exchange(value_, {});
    if (is_new_ && streams_) arguments_ += '"';
    if (is_new_ && !streams_) {
      arguments_ += open_ + json_value(value, types_).value_or(to_text(Json(value)));
      started_ = true;
    }
    state_ = State::body;
    return tag_ends(std::exchange(end_, {}).next_tag());
  }

  // That the schema allows for the parameter.
  std::set<std::string> types_of(const std::string& key) const {
    const Tool* tool = find_tool(tools_, name_);
    if (tool == nullptr || !tool->parameters.is_object()) return {};
    const auto properties = tool->parameters.find("properties");
    if (properties == tool->parameters.end() || !properties->is_object()) return {};
    const auto schema = properties->find(key);
    if (schema == properties->end()) return {};
    return schema_types(*schema, tool->parameters);
  }

  const std::vector<Tool>& tools_;
  State state_;
  TagReader tag_;
  std::set<std::string> keys_;
  std::string held_;  // of a name; of a value from what may be its end on
  // Of the value that is being read:
  std::set<std::string> types_;
  bool is_new_ = false;      // no value of the parameter came before
  bool streams_ = false;     // it can only be a string, and is told as it comes
  bool at_begin_ = false;    // nothing of it has come
  bool line_break_ = false;  // held back: one that belongs to the closing tag, if that comes
  std::string open_;         // what is told before it
  std::string value_;
  ValueEnd end_;
};

bool is_asked_for(std::string_view text) {
  return text.find(kFunctionOpen) != std::string_view::npos;
}

std::unique_ptr<ToolCallScanner> make_scanner(std::string_view opening_tag, const std::vector<Tool>& tools) {
  return std::make_unique<XmlScanner>(tools, opening_tag == kFunctionOpen);
}

bool has_reference(const Json& schema) {
  if (!schema.is_structured()) return false;
  if (schema.is_object() && schema.contains("$ref")) return true;
  return std::any_of(schema.begin(), schema.end(), has_reference);
}

std::set<std::string> required_names(const Json& schema) {
  std::set<std::string> names;
  const auto list = schema.find("required");
  if (list == schema.end() || !list->is_array()) return names;
  for (const Json& name : *list) {
    if (name.is_string()) names.insert(name.get<std::string>());
  }
  return names;
}

constexpr std::string_view kValueEnd = "\n</parameter>\n";

// The schema with what it refers to, which stays behind when it leaves its place.
Json with_definitions(Json schema, const Json& root) {
  if (!has_reference(schema)) return schema;
  for (const char* name : {"$defs", "definitions"}) {
    if (const auto found = root.find(name); found != root.end()) schema[name] = *found;
  }
  return schema;
}

// Whether a schema that left its place refers to something that did not come with it.
bool refers_elsewhere(const Json& schema) {
  if (!schema.is_structured()) return false;
  if (const auto found = schema.find("$ref"); schema.is_object() && found != schema.end()) {
    const std::string target = found->is_string() ? found->get<std::string>() : "";
    if (!target.starts_with("#/$defs/") && !target.starts_with("#/definitions/")) return true;
  }
  return std::any_of(schema.begin(), schema.end(), refers_elsewhere);
}

// Adds the rule for the value of a parameter and the end of it.
void add_value(ToolGrammarWriter& grammar, const std::string& rule, const Json& schema, const Json& root,
               bool lenient) {
  RawValues values = raw_values(schema, root);
  for (Json& json : values.json) json = with_definitions(std::move(json), root);
  if (values.any_text || std::ranges::any_of(values.json, refers_elsewhere)) {
    grammar.add(rule, "value \"\\n\"");
    grammar.add_once(fmt::format("value[suffix=\"{}\"]", kParameterClose), kAnyText);
    return;
  }
  std::vector<std::string> ways;
  if (!values.texts.empty()) {
    ways.push_back(rule + "_text");
    grammar.add(fmt::format("{}[suffix={}]", ways.back(), grammar_literal(kValueEnd)),
                fmt::format("{}", fmt::join(values.texts, " | ")));
  }
  for (const Json& json : values.json) {
    const std::string name = fmt::format("{}_{}", rule, ways.size());
    grammar.add(name, grammar_json(json, lenient));
    ways.push_back(fmt::format("{} {}", name, grammar_literal(kValueEnd)));
  }
  grammar.add(rule, fmt::format("{}", fmt::join(ways, " | ")));
}

void add_parameter(ToolGrammarWriter& grammar, const std::string& rule, const std::string& name,
                   const Json& schema, const Json& root, bool lenient) {
  const std::string open = grammar_literal(fmt::format("{}{}>\n", kParameterOpen, name));
  grammar.add(rule, fmt::format("{} {}_value", open, rule));
  add_value(grammar, rule + "_value", schema, root, lenient);
}

void add_call(ToolGrammarWriter& grammar, const std::string& rule, const Tool& tool) {
  std::vector<std::string> parts = {grammar.tag(kToolCallOpen),
                                    grammar_literal(fmt::format("\n{}{}>\n", kFunctionOpen, tool.name))};
  const Json schema = arguments_schema(tool);
  const std::set<std::string> required = required_names(schema);
  const auto properties = schema.find("properties");
  if (properties != schema.end() && properties->is_object()) {
    size_t number = 0;
    for (const auto& [name, property] : properties->items()) {
      const std::string parameter = fmt::format("{}_{}", rule, number++);
      parts.push_back(required.contains(name) ? parameter : parameter + "?");
      add_parameter(grammar, parameter, name, property, schema, !tool.strict);
    }
  }
  parts.push_back(grammar_literal(fmt::format("{}\n", kFunctionClose)));
  parts.push_back(grammar.tag(kToolCallClose));
  grammar.add(rule, fmt::format("{}", fmt::join(parts, " ")));
}

constexpr std::array kOpeningTags = {kToolCallOpen, kFunctionOpen};
constexpr std::array kTokenTags = {kToolCallOpen, kToolCallClose};
constexpr std::array kAllTags = {kToolCallOpen,  kToolCallClose, kFunctionOpen,
                                 kFunctionClose, kParameterOpen, kParameterClose};

}  // namespace

constinit const ToolCallFormat kXmlToolCalls = {.is_asked_for = &is_asked_for,
                                                .opening_tags = kOpeningTags,
                                                .token_tags = kTokenTags,
                                                .all_tags = kAllTags,
                                                .make_scanner = &make_scanner,
                                                .add_call = &add_call,
                                                .arguments_are_objects = true};

}  // namespace chorale::server
