// Writes a grammar for calls of tools, rule by rule, in llguidance's dialect of Lark.
#pragma once

#include <string>
#include <string_view>

#include "server/chat/tools.h"
#include "server/wire/json_body.h"

namespace chorale::server {

inline constexpr std::string_view kAnyText = "/(?s:.*)/";

// Not thread-safe.
class ToolGrammarWriter {
 public:
  // tags_are_tokens: see ToolGrammarOptions.
  explicit ToolGrammarWriter(bool tags_are_tokens) : tags_are_tokens_(tags_are_tokens) {}

  bool tags_are_tokens() const { return tags_are_tokens_; }

  // The line "head: body"; a head is a rule's name, with its attributes.
  void add(std::string_view head, std::string_view body);
  // The same, unless the line is there.
  void add_once(std::string_view head, std::string_view body);

  // A tag of the model's form, as it stands in a rule.
  std::string tag(std::string_view name) const;

  const std::string& text() const { return text_; }

 private:
  bool tags_are_tokens_;
  std::string text_;
};

// A string literal of the grammar, which are those of JSON.
std::string grammar_literal(std::string_view text);

// JSON that matches a schema, as the body of a rule. On one line, as the models' own calls are: where any
// white space may stand, a model may go on with it for ever. lenient: parts that cannot be enforced say
// nothing.
std::string grammar_json(Json schema, bool lenient);

// The schema of a tool's arguments, which are an object even where it does not say so, ready for the grammar.
// Throws BadRequest where it is strict and has parts that cannot be enforced.
Json arguments_schema(const Tool& tool);

}  // namespace chorale::server
