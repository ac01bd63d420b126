#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include <fmt/format.h>

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
        return in_tag(c, {kFunctionOpen});
      case State::name:
      case State::key:
        return in_name(c);
      case State::body:
        return in_tag(c, {kParameterOpen, kFunctionClose, kToolCallClose});
      case State::value:
        return in_value(c);
    }
    return Step::refuse;
  }

 private:
  enum class State { function, name, body, key, value };

  // White space, then one of the tags.
  Step in_tag(char c, std::initializer_list<std::string_view> tags) {
    if (held_.empty() && is_tool_space(c)) return Step::more;
    held_ += c;
    const bool begins =
        std::any_of(tags.begin(), tags.end(), [&](std::string_view tag) { return tag.starts_with(held_); });
    if (!begins) return Step::refuse;
    if (std::find(tags.begin(), tags.end(), held_) == tags.end()) return Step::more;
    return tag_ends(std::exchange(held_, {}));
  }

  Step tag_ends(const std::string& tag) {
    if (tag == kFunctionOpen) {
      state_ = State::name;
    } else if (tag == kParameterOpen) {
      state_ = State::key;
    } else {
      arguments_ += keys_.empty() ? "{}" : "}";
      complete_ = true;
      closing_ = true;
    }
    return tag == kToolCallClose ? Step::done : Step::more;
  }

  // The rest of <function=name> or <parameter=key>.
  Step in_name(char c) {
    if (c == '\n' || c == '<') return Step::refuse;
    if (c != '>') {
      held_ += c;
      return Step::more;
    }
    const std::string name(trim(held_));
    if (name.empty()) return Step::refuse;
    held_.clear();
    if (state_ == State::key) {
      key_ = name;
      state_ = State::value;
      return Step::more;
    }
    name_ = name;
    started_ = true;
    state_ = State::body;
    return Step::more;
  }

  Step in_value(char c) {
    held_ += c;
    if (c != '>' || !held_.ends_with(kParameterClose)) return Step::more;
    std::string_view value = held_;
    value.remove_suffix(kParameterClose.size());
    if (value.starts_with('\n')) value.remove_prefix(1);
    if (value.ends_with('\n')) value.remove_suffix(1);
    if (keys_.insert(key_).second) {
      arguments_ += (keys_.size() == 1 ? "{" : ", ") + to_text(Json(key_)) + ": " +
                    json_value(value, types()).value_or(to_text(Json(value)));
    }
    held_.clear();
    state_ = State::body;
    return Step::more;
  }

  // That the schema allows for the parameter.
  std::set<std::string> types() const {
    const Tool* tool = find_tool(tools_, name_);
    if (tool == nullptr || !tool->parameters.is_object()) return {};
    const auto properties = tool->parameters.find("properties");
    if (properties == tool->parameters.end() || !properties->is_object()) return {};
    const auto schema = properties->find(key_);
    if (schema == properties->end()) return {};
    return schema_types(*schema, tool->parameters);
  }

  const std::vector<Tool>& tools_;
  State state_;
  std::string held_;  // of the tag, name or value that is being read
  std::string key_;
  std::set<std::string> keys_;
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

// A schema that refers to others cannot leave its place.
void add_parameter(ToolGrammarWriter& grammar, const std::string& rule, const std::string& name,
                   const Json& schema, const Json& root) {
  const std::string open = grammar_literal(fmt::format("{}{}>\n", kParameterOpen, name));
  const std::set<std::string> types = schema_types(schema, root);
  if (types.empty() || types.contains("string") || has_reference(schema)) {
    grammar.add(rule, open + " value \"\\n\"");
    grammar.add_once(fmt::format("value[suffix=\"{}\"]", kParameterClose), kAnyText);
    return;
  }
  grammar.add(rule, fmt::format("{} {}_value \"\\n{}\\n\"", open, rule, kParameterClose));
  grammar.add(rule + "_value", grammar_json(schema));
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
      add_parameter(grammar, parameter, name, property, schema);
    }
  }
  parts.push_back(grammar_literal(fmt::format("{}\n", kFunctionClose)));
  parts.push_back(grammar.tag(kToolCallClose));
  grammar.add(rule, fmt::format("{}", fmt::join(parts, " ")));
}

constexpr std::array kOpeningTags = {kToolCallOpen, kFunctionOpen};
constexpr std::array kTokenTags = {kToolCallOpen, kToolCallClose};

}  // namespace

constinit const ToolCallFormat kXmlToolCalls = {.is_asked_for = &is_asked_for,
                                                .opening_tags = kOpeningTags,
                                                .token_tags = kTokenTags,
                                                .make_scanner = &make_scanner,
                                                .add_call = &add_call,
                                                .arguments_are_objects = true};

}  // namespace chorale::server
