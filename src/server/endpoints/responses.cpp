#include "server/endpoints/responses.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "server/chat/chat_plan.h"
#include "server/chat/responses_format.h"
#include "server/chat/responses_request.h"
#include "server/generation/sampling_fields.h"
#include "server/http/random_id.h"
#include "server/wire/bad_request.h"
#include "server/wire/openai_fields.h"

namespace chorale::server {
namespace {

constexpr std::string_view kResponses = "/v1/responses/";
constexpr SamplingNames kResponsesSampling{"max_output_tokens",          "", "min_tokens",
                                           "include_stop_str_in_output", "", "stop"};

void read_include(Fields& fields) {
  const Json* include = fields.get("include");
  if (include == nullptr) return;
  if (!include->is_array()) bad_request("include", "'include' must be a list, not {}", describe(*include));
  for (const Json& one : *include) {
    if (one == "message.output_text.logprobs")
      bad_request("include", "'include' cannot have {}: use /v1/chat/completions",
                  quote("message.output_text.logprobs"));
  }
}

void read_the_rest(Fields& fields) {
  read_include(fields);
  fields.accept({"metadata", "max_tool_calls", "service_tier", "user", "safety_identifier",
                 "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "access_programs",
                 "parallel_tool_calls"});
  fields.refuse("background", "responses are made while the client waits", {false});
  fields.refuse("conversation", "use previous_response_id");
  fields.refuse("prompt", "there are no stored prompts");
  fields.refuse("truncation", "prompts are never cut", {"disabled"});
  fields.refuse("top_logprobs", "use /v1/chat/completions", {0});
  fields.refuse("context_management", "prompts are never cut", {Json::array()});
  fields.refuse("moderation", "there is none");
  fields.refuse("image", "this model reads text");
  refuse_foreign_sampling(fields);
  fields.finish();
}

// The id in "/v1/responses/ID" and "/v1/responses/ID/more".
std::string id_in(const HttpRequest& request) {
  const std::string_view rest = std::string_view(request.path).substr(kResponses.size());
  return std::string(rest.substr(0, rest.find('/')));
}

StoredResponse find_response(const ServerState& state, const HttpRequest& request, const std::string& id) {
  auto found = state.context.responses->find(id, state.response_holder_of(request));
  if (found) return std::move(*found);
  throw BadRequest(ErrorAnswer{.status = 404, .message = fmt::format("there is no response {}", quote(id))});
}

}  // namespace

AnswerPlan plan_responses(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  ChatRequest request;
  request.sampling = read_sampling(fields, kResponsesSampling, context);
  const StreamRequest stream = read_stream(fields);
  request.stream = stream.stream;
  request.messages_param = "input";
  ResponsesConversation conversation = read_responses_conversation(fields, context);
  const bool keeps = fields.boolean("store").value_or(true) && context.responses->keeps_any();
  read_the_rest(fields);
  request.tools = std::move(conversation.tools);
  request.variables = std::move(conversation.variables);
  request.text_format = std::move(conversation.format);
  conversation.echo["temperature"] = request.sampling.params.temperature;
  conversation.echo["top_p"] = request.sampling.params.top_p;

  head.id = random_id("resp_");  // which is all that is needed to read what was said
  ChatPlan plan = plan_chat_answer(std::move(request), head.id, context);
  ResponsesOptions options{.message = std::move(plan.message),
                           .echo = std::move(conversation.echo),
                           .store = keeps ? context.responses : nullptr,
                           .holder = context.response_holder,
                           .input_items = std::move(conversation.input_items),
                           .messages = std::move(conversation.messages)};
  plan.answer.format = make_responses_format(std::move(head), std::move(options));
  return std::move(plan.answer);
}

HttpResponse stored_response(ServerState& state, const HttpRequest& request) {
  const std::string id = id_in(request);
  const StoredResponse found = find_response(state, request, id);
  if (request.method != "DELETE") return {.body = to_text(found.response)};
  state.context.responses->remove(id, found.holder);
  return {.body = to_text({{"id", id}, {"object", "response.deleted"}, {"deleted", true}})};
}

HttpResponse response_input_items(ServerState& state, const HttpRequest& request) {
  const std::string id = id_in(request);
  Json items = find_response(state, request, id).input_items;
  size_t number = 0;
  for (Json& item : items) {
    if (!item.contains("id")) item["id"] = fmt::format("{}_{}", id, number);
    ++number;
  }
  const Json first = items.empty() ? Json(nullptr) : items.front()["id"];
  const Json last = items.empty() ? Json(nullptr) : items.back()["id"];
  return {.body = to_text({{"object", "list"},
                           {"data", std::move(items)},
                           {"first_id", first},
                           {"last_id", last},
                           {"has_more", false}})};
}

HttpResponse cancel_response(ServerState& state, const HttpRequest& request) {
  const std::string id = id_in(request);
  Json response = find_response(state, request, id).response;
  for (const std::string& one : state.live.cancel(id, state.holder_of(request)))
    state.context.model.engine.abort(one);
  if (response["status"] != "in_progress") {
    bad_request("", "the response {} is not running: it is {}", quote(id),
                response["status"].get<std::string>());
  }
  response["status"] = "cancelled";
  return {.body = to_text(response)};
}

}  // namespace chorale::server
