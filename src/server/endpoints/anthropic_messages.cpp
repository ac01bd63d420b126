#include "server/endpoints/anthropic_messages.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "server/chat/anthropic_format.h"
#include "server/chat/anthropic_request.h"
#include "server/chat/chat_plan.h"
#include "server/chat/prompt.h"
#include "server/generation/prompts.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/bad_request.h"
#include "server/wire/openai_fields.h"

namespace chorale::server {
namespace {

constexpr SamplingNames kAnthropicSampling{
    "max_tokens", "", "min_tokens", "include_stop_str_in_output", "", "stop_sequences"};

void read_the_rest(Fields& fields) {
  fields.accept({"metadata", "service_tier", "inference_geo", "context_management", "cache_control",
                 "diagnostics", "betas", "speed", "fallbacks"});
  fields.refuse("container", "there are no containers");
  fields.refuse("mcp_servers", "this server runs no tools", {Json::array()});
  refuse_foreign_sampling(fields);
  fields.finish();
}

}  // namespace

AnswerPlan plan_messages(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  ChatRequest request;
  request.sampling = read_sampling(fields, kAnthropicSampling, context);
  if (!request.sampling.max_tokens) bad_request("max_tokens", "'max_tokens' is missing");
  AnthropicConversation conversation = read_anthropic_conversation(fields);
  request.stream = fields.boolean("stream").value_or(false);
  read_the_rest(fields);
  request.tools = std::move(conversation.tools);
  request.variables = std::move(conversation.variables);
  request.continues = conversation.continues;
  request.text_format = std::move(conversation.format);
  request.message.include_reasoning = conversation.include_thinking;
  if (conversation.thinking_budget)
    request.sampling.rules.reasoning = reasoning_budget(*conversation.thinking_budget, context);

  ChatPlan plan = plan_chat_answer(std::move(request), head.id, context);
  plan.answer.format = make_anthropic_format(std::move(head), std::move(plan.message));
  return std::move(plan.answer);
}

Json count_message_tokens(const Json& body, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  AnthropicConversation conversation = read_anthropic_conversation(fields);
  fields.accept({"max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k"});
  read_the_rest(fields);
  const ChatPrompt prompt =
      render_chat(std::move(conversation.variables), conversation.tools, conversation.continues, context);
  return {{"input_tokens", encode_text(prompt.text, false, INT64_MAX, "messages", context).size()}};
}

}  // namespace chorale::server
