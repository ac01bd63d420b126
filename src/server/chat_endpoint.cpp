#include "server/chat_endpoint.h"

#include <memory>
#include <utility>
#include <variant>

#include "server/bad_request.h"
#include "server/chat_messages.h"

namespace chorale::server {
namespace {

Json entry_json(const text::Tokenizer& tokenizer, int32_t id, float logprob) {
  const std::string bytes = tokenizer.token_bytes(id);
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return {
      {"token", token_text(tokenizer, id)}, {"logprob", finite_logprob(logprob)}, {"bytes", std::move(list)}};
}

Json logprobs_json(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                   const std::vector<engine::TokenLogprobs>& logprobs) {
  Json content = Json::array();
  for (size_t i = 0; i < ids.size() && i < logprobs.size(); ++i) {
    Json entry = entry_json(tokenizer, ids[i], logprobs[i].logprob);
    Json top = Json::array();
    for (const auto& [id, logprob] : logprobs[i].top) top.push_back(entry_json(tokenizer, id, logprob));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

class ChatFormat : public AnswerFormat {
 public:
  ChatFormat(AnswerHead head, const text::Tokenizer& tokenizer, bool logprobs, bool include_usage)
      : head_(std::move(head)), tokenizer_(tokenizer), logprobs_(logprobs), include_usage_(include_usage) {}

  Json whole(const std::vector<ChoiceState>& choices) const override {
    Json list = Json::array();
    for (const ChoiceState& choice : choices) {
      list.push_back({{"index", choice.index},
                      {"message", {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}}},
                      {"logprobs", logprobs(choice.token_ids, choice.logprobs)},
                      {"finish_reason", finish_name(choice.finish)}});
    }
    Json answer = answer_json(head_, "chat.completion", std::move(list));
    answer["usage"] = usage_json(choices);
    return answer;
  }

  void open(size_t num_choices, const Sink& sink) const override {
    for (size_t i = 0; i < num_choices; ++i) {
      sink(chunk(static_cast<int64_t>(i), {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr));
    }
  }

  void piece(const ChoiceState& choice, const TextPiece& piece, const Sink& sink) const override {
    const bool has_logprobs = logprobs_ && !piece.logprobs.empty();
    if (!piece.text.empty() || has_logprobs) {
      Json list = has_logprobs ? logprobs(piece.token_ids, piece.logprobs) : Json(nullptr);
      sink(chunk(choice.index, {{"content", piece.text}}, std::move(list), nullptr));
    }
    if (piece.finish != engine::FinishReason::none) {
      sink(chunk(choice.index, Json::object(), nullptr, finish_name(piece.finish)));
    }
  }

  void close(const std::vector<ChoiceState>& choices, const Sink& sink) const override {
    if (!include_usage_) return;
    Json last = answer_json(head_, "chat.completion.chunk", Json::array());
    last["usage"] = usage_json(choices);
    sink(last);
  }

 private:
  Json logprobs(const std::vector<int32_t>& ids, const std::vector<engine::TokenLogprobs>& values) const {
    return logprobs_ ? logprobs_json(tokenizer_, ids, values) : Json(nullptr);
  }

  Json chunk(int64_t index, Json delta, Json list, Json finish_reason) const {
    Json choices = Json::array();
    choices.push_back({{"index", index},
                       {"delta", std::move(delta)},
                       {"logprobs", std::move(list)},
                       {"finish_reason", std::move(finish_reason)}});
    Json out = answer_json(head_, "chat.completion.chunk", std::move(choices));
    if (include_usage_) out["usage"] = nullptr;
    return out;
  }

  AnswerHead head_;
  const text::Tokenizer& tokenizer_;
  bool logprobs_;
  bool include_usage_;
};

void refuse_chat_fields(Fields& fields) {
  fields.refuse("tools", "tools are not supported yet", {Json::array()});
  fields.refuse("tool_choice", "tools are not supported yet", {"none"});
  fields.refuse("functions", "tools are not supported yet", {Json::array()});
  fields.refuse("function_call", "tools are not supported yet", {"none"});
  fields.refuse("audio", "this model writes text only");
  fields.refuse("modalities", "this model writes text only", {Json::array({"text"})});
  fields.refuse("prediction", "predicted output is not used");
  fields.refuse("web_search_options", "there is no web search");
  fields.refuse("reasoning_effort", "use chat_template_kwargs, e.g. {\"enable_thinking\": false}");
  fields.refuse("verbosity", "the model has no such setting", {"medium"});
  fields.refuse("echo", "only /v1/completions has it", {false});
  fields.refuse("continue_final_message", "an answer always begins anew", {false});
  fields.refuse("add_special_tokens", "the chat template writes them", {false});
  fields.refuse("documents", "the model has no such input", {Json::array()});
  fields.refuse("chat_template", "the model's own is used");
  fields.refuse("best_of", "only /v1/completions knows it", {1});
  fields.refuse("separate_reasoning", "reasoning is part of the content", {false});
}

// The variables of the template, as JSON text.
std::string template_variables(Fields& fields) {
  const Json* messages = fields.get("messages");
  if (messages == nullptr) bad_request("messages", "'messages' is missing");
  Json variables = {{"messages", read_messages(*messages)},
                    {"add_generation_prompt", fields.boolean("add_generation_prompt").value_or(true)}};
  if (const Json* extra = fields.get("chat_template_kwargs")) {
    if (!extra->is_object()) {
      bad_request("chat_template_kwargs", "'chat_template_kwargs' must be an object, not {}",
                  describe(*extra));
    }
    for (const auto& [name, value] : extra->items()) {
      if (variables.contains(name) || name == "tools") {
        const std::string param = "chat_template_kwargs." + cut_text(name, 80);
        bad_request(param, "{} cannot be set here", quote(param));
      }
      variables[name] = value;
    }
  }
  return to_text(variables);
}

std::string render(const std::string& variables, const RequestContext& context) {
  const text::ChatTemplate* chat = context.model.chat;
  if (chat == nullptr) bad_request("messages", "this model has no chat template; use /v1/completions");
  if (chat->error()) {  // which the log tells at the start: it names files of the server
    bad_request("messages", "the model's chat template cannot be used; use /v1/completions");
  }
  auto rendered = chat->render(variables);
  if (auto* error = std::get_if<RequestError>(&rendered)) throw BadRequest(std::move(*error));
  return std::move(std::get<std::string>(rendered));
}

}  // namespace

std::string render_chat(Fields& fields, const RequestContext& context) {
  return render(template_variables(fields), context);
}

AnswerPlan plan_chat(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  SamplingRequest sampling = read_sampling(fields, kOpenAiChatSampling, context);
  const StreamRequest stream = read_stream(fields);
  const int64_t n = fields.integer("n", 1, context.options.max_sequences_per_request).value_or(1);
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top_logprobs = fields.integer("top_logprobs", 0, context.options.max_top_logprobs);
  if (top_logprobs && !logprobs) bad_request("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  const std::string variables = template_variables(fields);
  accept_harmless_fields(fields);
  refuse_chat_fields(fields);
  refuse_unsupported_fields(fields);
  fields.finish();

  const std::vector<int32_t> prompt = context.model.tokenizer.encode(render(variables, context), false);
  sampling.params.max_new_tokens =
      plan_length(static_cast<int64_t>(prompt.size()), "messages", sampling, std::nullopt, context);
  if (sampling.params.max_new_tokens == 0)
    bad_request(sampling.max_tokens_param, "at least one token is made");

  AnswerPlan plan;
  plan.stream = stream.stream;
  for (int64_t i = 0; i < n; ++i) {
    PlannedChoice choice;
    choice.request.id = fmt::format("{}-{}", head.id, i);
    choice.request.prompt_ids = prompt;
    choice.request.sampling = sampling.params;
    choice.request.sampling.choice_index = static_cast<uint32_t>(i);
    choice.public_id = head.id;
    choice.request.num_top_logprobs = logprobs ? static_cast<int32_t>(top_logprobs.value_or(0)) : -1;
    choice.text = sampling.text;
    plan.choices.push_back(std::move(choice));
  }
  plan.format =
      std::make_unique<ChatFormat>(std::move(head), context.model.tokenizer, logprobs, stream.include_usage);
  return plan;
}

}  // namespace chorale::server
