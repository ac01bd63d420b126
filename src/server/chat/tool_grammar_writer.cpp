#include "server/chat/tool_grammar_writer.h"

#include <utility>

#include <fmt/format.h>

#include "server/generation/json_schema.h"

namespace chorale::server {

void ToolGrammarWriter::add(std::string_view head, std::string_view body) {
  text_ += fmt::format("{}: {}\n", head, body);
}

void ToolGrammarWriter::add_once(std::string_view head, std::string_view body) {
  if (text_.find(fmt::format("\n{}: {}\n", head, body)) == std::string::npos) add(head, body);
}

std::string ToolGrammarWriter::tag(std::string_view name) const {
  return tags_are_tokens_ ? std::string(name) : grammar_literal(name);
}

std::string grammar_literal(std::string_view text) {
  return to_text(Json(text));
}

std::string grammar_json(Json schema, bool lenient) {
  if (schema.is_object()) {
    schema["x-guidance"] = {{"whitespace_flexible", true}, {"whitespace_pattern", " "}, {"lenient", lenient}};
  }
  return "%json " + to_text(schema);
}

Json arguments_schema(const Tool& tool) {
  if (!tool.parameters.is_object()) {
    return {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
  }
  ReadySchema ready = ready_schema(tool.parameters, SchemaForm::forgiving);
  tell_left_out(ready.left_out, tool.strict, fmt::format("the tool {}", quote(tool.name)), tool.param);
  if (schema_types(ready.schema, ready.schema).empty()) ready.schema["type"] = "object";
  return std::move(ready.schema);
}

}  // namespace chorale::server
