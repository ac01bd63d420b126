#include "server/endpoints/chat_completions.h"

#include <utility>

#include "server/chat/answer_format.h"
#include "server/chat/chat_plan.h"
#include "server/chat/prompt.h"
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

}  // namespace

AnswerPlan plan_chat(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  ChatRequest request;
  request.sampling = read_sampling(fields, kOpenAiChatSampling, context);
  const StreamRequest stream = read_stream(fields);
  request.stream = stream.stream;
  request.num_choices = fields.integer("n", 1, context.limits.max_sequences).value_or(1);
  request.num_top_logprobs = read_logprobs(fields, context.limits);
  ChatOptions options{.logprobs = request.num_top_logprobs >= 0,
                      .include_usage = stream.include_usage,
                      .continuous_usage = stream.continuous_usage,
                      .token_ids = fields.boolean("return_token_ids").value_or(false)};
  request.cache_salt = read_cache_salt(fields, context);
  request.tools = read_tools(fields);
  request.message = read_message_options(fields);
  request.variables = template_variables(fields, request.tools);
  request.continues = fields.boolean("continue_final_message").value_or(false);
  request.text_format = read_output_format(fields);
  accept_harmless_fields(fields);
  refuse_chat_fields(fields);
  refuse_unsupported_fields(fields);
  fields.finish();

  ChatPlan plan = plan_chat_answer(std::move(request), head.id, context);
  options.message = std::move(plan.message);
  plan.answer.format = make_chat_format(std::move(head), context.model.tokenizer, std::move(options),
                                        plan.answer.choices.size());
  return std::move(plan.answer);
}

}  // namespace chorale::server
