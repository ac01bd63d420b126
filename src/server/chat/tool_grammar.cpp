#include "server/chat/tool_grammar.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/chat/reasoning_parser.h"
#include "server/chat/tool_grammar_writer.h"
#include "server/wire/bad_request.h"
#include "text/grammar.h"

namespace chorale::server {
namespace {

void add_start(ToolGrammarWriter& grammar, const ToolGrammarOptions& options, bool parallel) {
  const ReasoningStart reasoning = options.reasoning;
  std::string start = parallel ? "call (\"\\n\" call)*" : "call";
  if (!options.text.empty()) {
    start = fmt::format("({} | text)", start);
    grammar.add("text", options.text);
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

bool ends_with_anchor(std::string_view expression) {
  if (!expression.ends_with('$')) return false;
  expression.remove_suffix(1);
  bool is_escaped = false;
  for (; expression.ends_with('\\'); expression.remove_suffix(1)) is_escaped = !is_escaped;
  return !is_escaped;
}

// The expression as it stands in a rule. All of the text matches it, so anchors at its ends say nothing.
std::string regex_rule(const RequestedFormat& format) {
  std::string_view text = format.constraint.text;
  if (const auto why = text::unsupported_pattern(text))
    bad_request(format.param, "'{}' cannot be used: {}", format.param, *why);
  if (text.starts_with('^')) text.remove_prefix(1);
  if (ends_with_anchor(text)) text.remove_suffix(1);
  if (text.empty()) bad_request(format.param, "'{}' is empty", format.param);
  std::string body;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] != '\n') {
      body += text.substr(i++, 2);
    } else if (text[i] == '/') {
      body += "\\/";
    } else if (text[i] == '\n') {
      body += "\\n";
    } else {
      body += text[i];
    }
  }
  return fmt::format("/(?:{})/", body);
}

std::string choice_rule(const RequestedFormat& format) {
  constexpr size_t kMaxChoices = 4096;
  const Json choices = Json::parse(format.constraint.text);
  if (choices.size() > kMaxChoices)
    bad_request(format.param, "'{}' may have at most {} choices, not {}", format.param, kMaxChoices,
                choices.size());
  std::vector<std::string> literals;
  for (const Json& choice : choices)
    literals.push_back(grammar_literal(choice.get_ref<const std::string&>()));
  return fmt::format("{}", fmt::join(literals, " | "));
}

}  // namespace

std::optional<std::string> text_rule(const RequestedFormat& format) {
  using Kind = OutputConstraint::Kind;
  if (format.constraint.kind == Kind::regex) return regex_rule(format);
  if (format.constraint.kind == Kind::choice) return choice_rule(format);
  std::optional<Json> schema = schema_of(format);
  if (!schema) return std::nullopt;
  return grammar_json(std::move(*schema), format.constraint.kind != Kind::json_schema);
}

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
