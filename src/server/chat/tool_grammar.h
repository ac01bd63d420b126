// The grammar that makes a model call a tool, in llguidance's dialect of Lark.
#pragma once

#include <optional>
#include <string>

#include "server/chat/tool_call_format.h"
#include "server/chat/tools.h"
#include "server/generation/output_constraint.h"
#include "server/generation/structured_output.h"
#include "text/tokenizer.h"

namespace chorale::server {

struct ToolGrammarOptions {
  const ToolCallFormat* format = &kJsonToolCalls;
  ReasoningStart reasoning = ReasoningStart::none;
  // The tags of reasoning and calls are tokens of their own, as in Qwen3's vocabularies. Such tokens are
  // written as <think> in the grammar, not as "<think>", which would be the same text in other tokens.
  bool tags_are_tokens = true;
  // The body of a rule for what the model may write in place of calls; empty: it must call.
  std::string text;
};

// Such a body for a format; nullopt: a grammar, which says all of the output itself. Throws BadRequest for a
// format that cannot be used.
std::optional<std::string> text_rule(const RequestedFormat& format);

// One call of a tool, or several when the request says so, in the model's form, or the text;
// nothing but the end of the output after them. The tools are those that request.choice leaves. Reasoning is
// free text. Throws BadRequest for a strict schema of which a part cannot be enforced.
std::string tool_grammar(const ToolRequest& request, const ToolGrammarOptions& options);

// Whether the tags of reasoning and of that form's calls are tokens of their own.
bool has_tag_tokens(const text::Tokenizer& tokenizer, const ToolCallFormat& format);

}  // namespace chorale::server
