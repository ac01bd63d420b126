#include "server/chat/tool_grammar.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "server/chat/reasoning_parser.h"
#include "server/chat/tool_grammar_writer.h"

namespace chorale::server {
namespace {

void add_start(ToolGrammarWriter& grammar, const ToolGrammarOptions& options, bool parallel) {
  const ReasoningStart reasoning = options.reasoning;
  std::string start = parallel ? "call (\"\\n\" call)*" : "call";
  if (options.text_schema != nullptr) {
    start = fmt::format("({} | text)", start);
    grammar.add("text", grammar_json(*options.text_schema, !options.text_is_strict));
  }
  if (reasoning == ReasoningStart::opened) start = "thought " + start;
  if (reasoning == ReasoningStart::allowed) {
    start = fmt::format("({} thought)? {}", grammar.tag(kThinkOpen), start);
  }
  grammar.add("start", start);
  if (reasoning == ReasoningStart::none) return;
  const std::string line_breaks = "/\\n{1,2}/?";
  if (grammar.tags_are_tokens()) {
    grammar.add("thought", fmt::format("{} {} {}", kAnyText, kThinkClose, line_breaks));
  } else {
    grammar.add("thought", "reasoning " + line_breaks);
    grammar.add(fmt::format("reasoning[suffix={}]", grammar.tag(kThinkClose)), kAnyText);
  }
}

}  // namespace

std::string tool_grammar(const ToolRequest& request, const ToolGrammarOptions& options) {
  ToolGrammarWriter grammar(options.tags_are_tokens);
  add_start(grammar, options, request.parallel);
  std::vector<std::string> names;
  for (const Tool& tool : request.tools) {
    if (request.choice == ToolRequest::Choice::named && tool.name != request.name) continue;
    names.push_back(fmt::format("call_{}", names.size()));
    options.format->add_call(grammar, names.back(), tool);
  }
  grammar.add("call", fmt::format("{}", fmt::join(names, " | ")));
  return grammar.text();
}

bool has_tag_tokens(const text::Tokenizer& tokenizer, const ToolCallFormat& format) {
  const auto is_token = [&](std::string_view tag) { return tokenizer.encode(tag, false).size() == 1; };
  return is_token(kThinkOpen) && is_token(kThinkClose) && std::ranges::all_of(format.token_tags, is_token);
}

}  // namespace chorale::server
