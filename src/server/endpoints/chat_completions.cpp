#include "server/endpoints/chat_completions.h"

#include <memory>
#include <optional>
#include <utility>

#include "server/chat/answer_format.h"
#include "server/chat/messages.h"
#include "server/chat/prompt.h"
#include "server/chat/tool_grammar.h"
#include "server/generation/structured_output.h"
#include "server/wire/bad_request.h"
#include "server/wire/openai_fields.h"

namespace chorale::server {
namespace {

void refuse_chat_fields(Fields& fields) {
  fields.refuse("functions", "use tools", {Json::array()});
  fields.refuse("function_call", "use tool_choice", {"none"});
  fields.refuse("audio", "this model writes text only");
  fields.refuse("modalities", "this model writes text only", {Json::array({"text"})});
  fields.refuse("web_search_options", "there is no web search");
  fields.refuse("echo", "only /v1/completions has it", {false});
  fields.refuse("add_special_tokens", "the chat template writes them", {false});
  fields.refuse("documents", "the model has no such input", {Json::array()});
  fields.refuse("chat_template", "the model's own is used");
  fields.refuse("best_of", "only /v1/completions knows it", {1});
}

MessageOptions read_message_options(Fields& fields) {
  MessageOptions options;
  options.separate_reasoning = fields.boolean("separate_reasoning").value_or(true);
  options.include_reasoning = fields.boolean("include_reasoning").value_or(true);
  options.stream_reasoning = fields.boolean("stream_reasoning").value_or(true);
  return options;
}

// The number of alternatives to each token; -1: nothing is told of them.
int32_t read_logprobs(Fields& fields, const RequestLimits& limits) {
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top_logprobs = fields.integer("top_logprobs", 0, limits.max_top_logprobs);
  if (top_logprobs && !logprobs) bad_request("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  return logprobs ? static_cast<int32_t>(top_logprobs.value_or(0)) : -1;
}

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

AnswerPlan plan_chat(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  SamplingRequest sampling = read_sampling(fields, kOpenAiChatSampling, context);
  const StreamRequest stream = read_stream(fields);
  const int64_t n = fields.integer("n", 1, context.limits.max_sequences).value_or(1);
  const int32_t num_top_logprobs = read_logprobs(fields, context.limits);
  ChatOptions options{.logprobs = num_top_logprobs >= 0,
                      .include_usage = stream.include_usage,
                      .continuous_usage = stream.continuous_usage,
                      .token_ids = fields.boolean("return_token_ids").value_or(false)};
  const ToolRequest tools = read_tools(fields);
  MessageOptions message = read_message_options(fields);
  Json variables = template_variables(fields, tools);
  const bool continues = fields.boolean("continue_final_message").value_or(false);
  std::optional<RequestedFormat> text_format = read_output_format(fields);
  accept_harmless_fields(fields);
  refuse_chat_fields(fields);
  refuse_unsupported_fields(fields);
  fields.finish();

  const ChatPrompt rendered = render_chat(std::move(variables), tools, continues, context);
  const std::string& text = rendered.text;
  const ToolCallFormat* call_format = rendered.call_format;
  const auto format =
      output_format(tools, call_format, std::move(text_format), text, context.model.tokenizer);
  message.reasoning_opened = continues ? continues_reasoning(text) : opens_reasoning(text);
  message.parse_calls = tools.may_call();
  if (call_format != nullptr) message.calls = {call_format, tools.parallel, !stream.stream};
  message.tools = tools.tools;
  sampling.text.kept_tokens = tag_tokens(context.model.tokenizer, message);

  const std::vector<int32_t> prompt = context.model.tokenizer.encode(text, false);
  sampling.params.max_new_tokens =
      plan_length(static_cast<int64_t>(prompt.size()), "messages", sampling, std::nullopt, context);
  if (sampling.params.max_new_tokens == 0)
    bad_request(sampling.max_tokens_param, "at least one token is made");

  AnswerPlan plan{.choices = {}, .format = nullptr, .stream = stream.stream};
  PlannedChoice choice;
  choice.request.prompt_ids = prompt;
  choice.request.sampling = sampling.params;
  choice.request.num_top_logprobs = num_top_logprobs;
  choice.public_id = head.id;
  choice.text = sampling.text;
  choice.output_format = format;
  choice.rules = plan_rules(sampling, prompt);
  for (int64_t i = 0; i < n; ++i) {
    choice.request.id = fmt::format("{}-{}", head.id, i);
    choice.request.sampling.choice_index = static_cast<uint32_t>(i);
    plan.choices.push_back(choice);
  }
  options.message = std::make_shared<const MessageOptions>(std::move(message));
  plan.format =
      make_chat_format(std::move(head), context.model.tokenizer, std::move(options), plan.choices.size());
  return plan;
}

}  // namespace chorale::server
