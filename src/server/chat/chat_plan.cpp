#include "server/chat/chat_plan.h"

#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/chat/prompt.h"
#include "server/chat/reasoning_parser.h"
#include "server/chat/tool_grammar.h"
#include "server/generation/prompts.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

// A call that the model must make comes before a format, which is about the text of a message. Where it may
// make one, it chooses between a call and the format; but a grammar says all of the output.
std::shared_ptr<const OutputFormat> output_format(const ToolRequest& tools, const ToolCallFormat* call_format,
                                                  std::optional<RequestedFormat> text_format,
                                                  std::string_view prompt, const text::Tokenizer& tokenizer) {
  const ReasoningStart reasoning = reasoning_start(prompt);
  std::optional<std::string> text;
  if (tools.may_call() && !tools.must_call() && text_format) text = text_rule(*text_format);
  if (!tools.must_call() && !text) {
    if (!text_format) return nullptr;
    return std::make_shared<const OutputFormat>(OutputFormat{std::move(*text_format), reasoning});
  }
  ToolGrammarOptions options{call_format, reasoning, has_tag_tokens(tokenizer, *call_format)};
  std::string param = "tool_choice";
  if (text) {
    options.text = std::move(*text);
    param = text_format->param;
  }
  RequestedFormat calls{{OutputConstraint::Kind::written, tool_grammar(tools, options)}, std::move(param)};
  if (text) calls.strict = std::move(text_format->strict);
  for (const Tool& tool : tools.tools) {
    if (tool.strict)
      calls.strict.push_back({tool.parameters, fmt::format("the tool {}", quote(tool.name)), tool.param});
  }
  // The grammar has the reasoning.
  return std::make_shared<const OutputFormat>(OutputFormat{std::move(calls)});
}

}  // namespace

ChatPlan plan_chat_answer(ChatRequest request, const std::string& id, const RequestContext& context) {
  const text::Tokenizer& tokenizer = context.model.tokenizer;
  SamplingRequest& sampling = request.sampling;
  const ChatPrompt rendered =
      render_chat(std::move(request.variables), request.tools, request.continues, context);
  const std::string& text = rendered.text;
  const auto format =
      output_format(request.tools, rendered.call_format, std::move(request.text_format), text, tokenizer);
  MessageOptions message = std::move(request.message);
  message.reasoning_opened = request.continues ? continues_reasoning(text) : opens_reasoning(text);
  message.parse_calls = request.tools.may_call();
  if (rendered.call_format != nullptr)
    message.calls = {rendered.call_format, request.tools.parallel, !request.stream};
  message.tools = std::move(request.tools.tools);
  sampling.text.kept_tokens = tag_tokens(tokenizer, message);

  const std::vector<int32_t> prompt = encode_prompt(text, false, request.messages_param, context);
  sampling.params.max_new_tokens =
      plan_length(std::ssize(prompt), request.messages_param, sampling, std::nullopt, context);
  if (sampling.params.max_new_tokens == 0)
    bad_request(sampling.max_tokens_param, "at least one token is made");

  ChatPlan plan{{.choices = {}, .format = nullptr, .stream = request.stream},
                std::make_shared<const MessageOptions>(std::move(message))};
  PlannedChoice choice;
  choice.request.prompt_ids = prompt;
  choice.request.cache_salt = request.cache_salt.empty() ? context.holder : request.cache_salt;
  choice.request.sampling = sampling.params;
  choice.request.num_top_logprobs = request.num_top_logprobs;
  choice.public_id = id;
  choice.text = sampling.text;
  choice.output_format = format;
  choice.rules = plan_rules(sampling, prompt);
  for (int64_t i = 0; i < request.num_choices; ++i) {
    choice.request.id = fmt::format("{}-{}", id, i);
    choice.request.sampling.choice_index = static_cast<uint32_t>(i);
    plan.answer.choices.push_back(choice);
  }
  return plan;
}

}  // namespace chorale::server
