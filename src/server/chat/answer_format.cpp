#include "server/chat/answer_format.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "server/chat/message_answer.h"

namespace chorale::server {
namespace {

Json entry_json(const text::Tokenizer& tokenizer, int32_t id, float logprob) {
  const std::string bytes = tokenizer.token_bytes(id);
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return {
      {"token", token_text(tokenizer, id)}, {"logprob", finite_logprob(logprob)}, {"bytes", std::move(list)}};
}

// Both lists, and the tokenizer, must outlive `lists`.
Json logprobs_json(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                   const std::vector<engine::TokenLogprobs>& logprobs, LongLists* lists) {
  const auto element = [&tokenizer, &ids, &logprobs](size_t i) {
    Json entry = entry_json(tokenizer, ids[i], logprobs[i].logprob);
    Json top = Json::array();
    for (const auto& [id, logprob] : logprobs[i].top) top.push_back(entry_json(tokenizer, id, logprob));
    entry["top_logprobs"] = std::move(top);
    return entry;
  };
  return {{"content", list_of(std::min(ids.size(), logprobs.size()), element, lists)}, {"refusal", nullptr}};
}

class ChatFormat : public AnswerFormat {
 public:
  ChatFormat(AnswerHead head, const text::Tokenizer& tokenizer, ChatOptions options, size_t num_choices)
      : head_(std::move(head)), tokenizer_(tokenizer), options_(std::move(options)) {
    for (size_t i = 0; i < num_choices; ++i) parsers_.emplace_back(options_.message);
  }

  Json whole(const std::vector<ChoiceState>& choices, LongLists& lists) const override {
    Json list = Json::array();
    for (const ChoiceState& choice : choices) {
      MessageParser parser(options_.message);
      MessagePiece piece = parser.push(choice.text);
      append(parser.finish(), piece);
      list.push_back({{"index", choice.index},
                      {"message", message(choice.index, std::move(piece))},
                      {"logprobs", logprobs(choice.token_ids, choice.logprobs, &lists)},
                      {"finish_reason", message_finish_name(choice.finish, parser)}});
      if (options_.token_ids) list.back()["token_ids"] = choice.token_ids;
    }
    Json answer = answer_json(head_, "chat.completion", std::move(list));
    answer["usage"] = usage(choices);
    if (options_.token_ids) answer["prompt_token_ids"] = choices.front().plan.request.prompt_ids;
    return answer;
  }

  void piece(const ChoiceState& choice, const TextPiece& piece, const Sink& sink) override {
    MessageParser& parser = parsers_[static_cast<size_t>(choice.index)];
    // Also where the text of the first token is held back: it is then that the choice has begun.
    if (!choice.told_any) {
      Json first = chunk(choice, {{"role", "assistant"}, {"content", ""}}, {}, nullptr);
      if (options_.token_ids) first["prompt_token_ids"] = choice.plan.request.prompt_ids;
      sink(first);
    }
    const bool finished = piece.finish != engine::FinishReason::none;
    MessagePiece parsed = parser.push(piece.text);
    if (finished) append(parser.finish(), parsed);
    std::vector<Json> deltas = this->deltas(choice.index, parsed);
    // What is told of tokens comes with them, also of text that is held back.
    TokenLists lists;
    if (options_.logprobs && !piece.logprobs.empty())
      lists.logprobs = logprobs(piece.token_ids, piece.logprobs, nullptr);
    if (options_.token_ids && !piece.token_ids.empty()) lists.ids = piece.token_ids;
    if (deltas.empty() && !(lists.logprobs.is_null() && lists.ids.is_null()))
      deltas.push_back({{"content", ""}});
    for (Json& delta : deltas) {
      sink(chunk(choice, std::move(delta), std::exchange(lists, {}), nullptr));
    }
    if (finished) sink(chunk(choice, Json::object(), {}, message_finish_name(choice.finish, parser)));
  }

  const char* finish_reason(const ChoiceState& before, const TextPiece& last) const override {
    return parsed_finish_reason(options_.message, before, last);
  }

  void close(const std::vector<ChoiceState>& choices, const Sink& sink) const override {
    if (!options_.include_usage) return;
    Json last = answer_json(head_, "chat.completion.chunk", Json::array());
    last["usage"] = usage(choices);
    sink(last);
  }

 private:
  struct TokenLists {
    Json logprobs;
    Json ids;
  };

  Json usage(std::span<const ChoiceState> choices) const {
    Json out = usage_json(choices);
    int64_t reasoning = 0;
    for (const ChoiceState& choice : choices)
      reasoning += count_reasoning_tokens(choice, options_.message->reasoning_opened);
    out["completion_tokens_details"] = {{"reasoning_tokens", reasoning}};
    return out;
  }

  Json logprobs(const std::vector<int32_t>& ids, const std::vector<engine::TokenLogprobs>& values,
                LongLists* lists) const {
    return options_.logprobs ? logprobs_json(tokenizer_, ids, values, lists) : Json(nullptr);
  }

  // The whole message; a call's deltas become one.
  Json message(int64_t choice, MessagePiece piece) const {
    const bool calls_alone = piece.content.empty() && !piece.calls.empty();
    Json out = {{"role", "assistant"},
                {"content", calls_alone ? Json(nullptr) : Json(std::move(piece.content))},
                {"refusal", nullptr},
                {"reasoning_content", piece.reasoning.empty() ? Json(nullptr) : Json(piece.reasoning)}};
    if (piece.calls.empty()) return out;
    Json calls = Json::array();
    for (WholeCall& call : whole_calls(std::move(piece.calls))) {
      calls.push_back(begun_call(choice, call.index, call.name));
      calls.back()["function"]["arguments"] = std::move(call.arguments);
    }
    out["tool_calls"] = std::move(calls);
    return out;
  }

  Json begun_call(int64_t choice, int64_t call, const std::string& name) const {
    return {{"id", call_id("call_", head_, choice, call)},
            {"type", "function"},
            {"function", {{"name", name}, {"arguments", ""}}}};
  }

  // One delta for the text and one for each part of a call.
  std::vector<Json> deltas(int64_t choice, const MessagePiece& piece) const {
    std::vector<Json> out;
    Json text = Json::object();
    if (!piece.reasoning.empty()) text["reasoning_content"] = piece.reasoning;
    if (!piece.content.empty()) text["content"] = piece.content;
    if (!text.empty()) out.push_back(std::move(text));
    for (const ToolCallDelta& delta : piece.calls) {
      Json call = {{"index", delta.index}};
      if (delta.name) {
        call.update(begun_call(choice, delta.index, *delta.name));
      } else {
        call["function"] = {{"arguments", delta.arguments}};
      }
      out.push_back({{"tool_calls", Json::array({std::move(call)})}});
    }
    return out;
  }

  Json chunk(const ChoiceState& choice, Json delta, TokenLists lists, Json finish_reason) const {
    Json choices = Json::array();
    choices.push_back({{"index", choice.index},
                       {"delta", std::move(delta)},
                       {"logprobs", std::move(lists.logprobs)},
                       {"finish_reason", std::move(finish_reason)}});
    if (!lists.ids.is_null()) choices.back()["token_ids"] = std::move(lists.ids);
    Json out = answer_json(head_, "chat.completion.chunk", std::move(choices));
    if (options_.include_usage)
      out["usage"] = options_.continuous_usage ? usage({&choice, 1}) : Json(nullptr);
    return out;
  }

  AnswerHead head_;
  const text::Tokenizer& tokenizer_;
  ChatOptions options_;
  std::vector<MessageParser> parsers_;  // of a stream, by choice
};

}  // namespace

std::unique_ptr<AnswerFormat> make_chat_format(AnswerHead head, const text::Tokenizer& tokenizer,
                                               ChatOptions options, size_t num_choices) {
  return std::make_unique<ChatFormat>(std::move(head), tokenizer, std::move(options), num_choices);
}

}  // namespace chorale::server
