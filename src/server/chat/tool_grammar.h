// The grammar that makes a model call a tool, in llguidance's dialect of Lark.
#pragma once

#include <string>

#include "server/chat/tool_call_scanner.h"
#include "server/chat/tools.h"
#include "server/generation/output_constraint.h"
#include "text/tokenizer.h"

namespace chorale::server {

struct ToolGrammarOptions {
  ToolCallForm form = ToolCallForm::json;
  ReasoningStart reasoning = ReasoningStart::none;
  // The tags of reasoning and calls are tokens of their own, as in Qwen3's vocabularies. Such tokens are
  // written as <think> in the grammar, not as "<think>", which would be the same text in other tokens.
  bool tags_are_tokens = true;
};

// One call of a tool, or several when the request says so, in the model's form; nothing but the end of the
// output after them. The tools are those that request.choice leaves. Reasoning is free text.
//
// JSON form: the arguments match the tool's schema. XML form: the parameters come in the order of the
// schema's properties, the required ones always; a value is any text up to </parameter>, or, where the schema
// says that no string is allowed, JSON that matches the property's schema.
std::string tool_grammar(const ToolRequest& request, const ToolGrammarOptions& options);

// Whether the tags are tokens of their own.
bool has_tag_tokens(const text::Tokenizer& tokenizer);

}  // namespace chorale::server
