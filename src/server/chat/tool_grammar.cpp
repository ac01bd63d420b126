#include "server/chat/tool_grammar.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/chat/reasoning_parser.h"

namespace chorale::server {
namespace {

constexpr const char* kAnyText = "/(?s:.*)/";

// A string literal of the grammar, which are those of JSON.
std::string literal(const std::string& text) {
  return to_text(Json(text));
}

std::string joined(const std::vector<std::string>& parts, const char* separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

// Arguments are an object even where the schema does not say so.
Json arguments_schema(const Tool& tool) {
  if (!tool.parameters.is_object()) {
    return {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
  }
  Json schema = tool.parameters;
  if (schema_types(schema, schema).empty()) schema["type"] = "object";
  return schema;
}

// A schema as a rule of the grammar. On one line, as the models' own calls are: where any white space may
// stand, a model may go on with it for ever.
std::string json_rule(Json schema) {
  if (schema.is_object()) {
    schema["x-guidance"] = {{"whitespace_flexible", true}, {"whitespace_pattern", " "}};
  }
  return "%json " + to_text(schema);
}

bool has_reference(const Json& schema) {
  if (!schema.is_structured()) return false;
  if (schema.is_object() && schema.contains("$ref")) return true;
  return std::any_of(schema.begin(), schema.end(), has_reference);
}

class Grammar {
 public:
  explicit Grammar(const ToolGrammarOptions& options) : options_(options) {}

  void add_start(bool parallel) {
    std::string start = parallel ? "call (\"\\n\" call)*" : "call";
    if (options_.reasoning == ReasoningStart::opened) start = "thought " + start;
    if (options_.reasoning == ReasoningStart::allowed) {
      start = fmt::format("({} thought)? {}", tag(kThinkOpen), start);
    }
    add("start", start);
    if (options_.reasoning == ReasoningStart::none) return;
    const std::string line_breaks = "/\\n{1,2}/?";
    if (options_.tags_are_tokens) {
      add("thought", fmt::format("{} {} {}", kAnyText, kThinkClose, line_breaks));
    } else {
      add("thought", "reasoning " + line_breaks);
      add(fmt::format("reasoning[suffix={}]", tag(kThinkClose)), kAnyText);
    }
  }

  // "call_0: ..." and what it needs.
  void add_json_call(const std::string& rule, const Tool& tool) {
    const std::string open = fmt::format("\n{{\"name\": {}, \"arguments\": ", literal(tool.name));
    add(rule, fmt::format("{} {} {}_arguments {} {}", tag(kToolCallOpen), literal(open), rule, literal("}\n"),
                          tag(kToolCallClose)));
    add(rule + "_arguments", json_rule(arguments_schema(tool)));
  }

  void add_xml_call(const std::string& rule, const Tool& tool) {
    const std::string open = fmt::format("\n{}{}>\n", kFunctionOpen, tool.name);
    std::vector<std::string> parts;
    const Json schema = arguments_schema(tool);
    const std::set<std::string> required = required_names(schema);
    const auto properties = schema.find("properties");
    if (properties != schema.end() && properties->is_object()) {
      for (const auto& [name, property] : properties->items()) {
        const std::string parameter = fmt::format("{}_{}", rule, parts.size());
        parts.push_back(required.contains(name) ? parameter : parameter + "?");
        add_parameter(parameter, name, property, schema);
      }
    }
    parts.insert(parts.begin(), {tag(kToolCallOpen), literal(open)});
    parts.insert(parts.end(), {literal("</function>\n"), tag(kToolCallClose)});
    add(rule, joined(parts, " "));
  }

  void add(const std::string& rule, const std::string& body) { text_ += rule + ": " + body + "\n"; }
  std::string take() { return std::move(text_); }

 private:
  std::string tag(std::string_view name) const {
    return options_.tags_are_tokens ? std::string(name) : literal(std::string(name));
  }

  static std::set<std::string> required_names(const Json& schema) {
    std::set<std::string> names;
    const auto list = schema.find("required");
    if (list == schema.end() || !list->is_array()) return names;
    for (const Json& name : *list) {
      if (name.is_string()) names.insert(name.get<std::string>());
    }
    return names;
  }

  // A schema that refers to others cannot leave its place.
  void add_parameter(const std::string& rule, const std::string& name, const Json& schema, const Json& root) {
    const std::string open = literal("<parameter=" + name + ">\n");
    const std::set<std::string> types = schema_types(schema, root);
    if (types.empty() || types.contains("string") || has_reference(schema)) {
      add(rule, open + " value \"\\n\"");
      if (!std::exchange(has_value_, true)) add("value[suffix=\"</parameter>\"]", kAnyText);
      return;
    }
    add(rule, fmt::format("{} {}_value \"\\n</parameter>\\n\"", open, rule));
    add(rule + "_value", json_rule(schema));
  }

  ToolGrammarOptions options_;
  std::string text_;
  bool has_value_ = false;
};

}  // namespace

std::string tool_grammar(const ToolRequest& request, const ToolGrammarOptions& options) {
  Grammar grammar(options);
  grammar.add_start(request.parallel);
  std::vector<std::string> names;
  for (const Tool& tool : request.tools) {
    if (request.choice == ToolRequest::Choice::named && tool.name != request.name) continue;
    names.push_back(fmt::format("call_{}", names.size()));
    if (options.form == ToolCallForm::json) {
      grammar.add_json_call(names.back(), tool);
    } else {
      grammar.add_xml_call(names.back(), tool);
    }
  }
  grammar.add("call", joined(names, " | "));
  return grammar.take();
}

bool has_tag_tokens(const text::Tokenizer& tokenizer) {
  const auto is_token = [&](std::string_view tag) { return tokenizer.encode(tag, false).size() == 1; };
  return is_token(kThinkOpen) && is_token(kThinkClose) && is_token(kToolCallOpen) && is_token(kToolCallClose);
}

}  // namespace chorale::server
