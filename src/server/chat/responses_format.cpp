#include "server/chat/responses_format.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/sha256.h"
#include "server/chat/message_answer.h"
#include "server/chat/responses_request.h"

namespace chorale::server {
namespace {

using Sink = AnswerFormat::Sink;

// Makes the items of the output from the parts of a message as they come, and tells each step of them.
class OutputItems {
 public:
  // `tell`: gets events without their number; may be empty.
  OutputItems(const AnswerHead& head, Sink tell) : head_(head), tell_(std::move(tell)) {}

  void add(const MessagePiece& piece) {
    if (!piece.reasoning.empty()) add_text("reasoning", piece.reasoning);
    if (!piece.content.empty()) add_text("message", piece.content);
    for (const ToolCallDelta& delta : piece.calls) {
      if (delta.name) begin_call(delta);
      if (delta.arguments.empty()) continue;
      text_ += delta.arguments;
      tell("response.function_call_arguments.delta", {{"delta", delta.arguments}});
    }
  }

  void finish(const char* status) {
    if (open_.empty()) return;
    Json& item = items_.back();
    item["status"] = status;
    if (open_ == "function_call") {
      item["arguments"] = text_;
      tell("response.function_call_arguments.done", {{"arguments", text_}});
    } else {
      item["content"] = Json::array({part()});
      Json done = {{"content_index", 0}, {"text", text_}};
      if (open_ == "message") done["logprobs"] = Json::array();
      tell(text_event(".done"), std::move(done));
      tell("response.content_part.done", {{"content_index", 0}, {"part", part()}});
    }
    tell("response.output_item.done", {{"item", item}});
    open_.clear();
    text_.clear();
  }

  const Json& items() const { return items_; }

 private:
  void add_text(std::string_view type, const std::string& text) {
    if (open_ != type) {
      finish("completed");
      Json item = {{"id", item_id(type == "message" ? "msg_" : "rs_")}, {"type", type}};
      if (type == "message") item["role"] = "assistant";
      if (type == "reasoning") item["summary"] = Json::array();
      item["status"] = "in_progress";
      item["content"] = Json::array();
      begin(std::string(type), std::move(item));
      tell("response.content_part.added", {{"content_index", 0}, {"part", part()}});
    }
    text_ += text;
    Json delta = {{"content_index", 0}, {"delta", text}};
    if (type == "message") delta["logprobs"] = Json::array();
    tell(text_event(".delta"), std::move(delta));
  }

  void begin_call(const ToolCallDelta& delta) {
    finish("completed");
    begin("function_call", {{"id", item_id("fc_")},
                            {"type", "function_call"},
                            {"status", "in_progress"},
                            {"call_id", call_id("call_", head_, 0, delta.index)},
                            {"name", *delta.name},
                            {"arguments", ""}});
  }

  void begin(std::string type, Json item) {
    open_ = std::move(type);
    items_.push_back(std::move(item));
    if (tell_) tell("response.output_item.added", {{"item", items_.back()}});
  }

  Json part() const {
    if (open_ == "reasoning") return {{"type", "reasoning_text"}, {"text", text_}};
    return {{"type", "output_text"},
            {"text", text_},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }

  const char* text_event(std::string_view step) const {
    const bool is_delta = step == ".delta";
    if (open_ == "reasoning")
      return is_delta ? "response.reasoning_text.delta" : "response.reasoning_text.done";
    return is_delta ? "response.output_text.delta" : "response.output_text.done";
  }

  std::string item_id(std::string_view prefix) const {
    return call_id(prefix, head_, 1, static_cast<int64_t>(items_.size()));
  }

  void tell(const char* type, Json fields) const {
    if (!tell_) return;
    Json event = {{"type", type}, {"output_index", items_.size() - 1}};
    if (std::string_view(type) != "response.output_item.added" &&
        std::string_view(type) != "response.output_item.done")
      event["item_id"] = items_.back()["id"];
    event.update(fields);
    tell_(event);
  }

  const AnswerHead& head_;
  Sink tell_;
  Json items_ = Json::array();
  std::string open_;  // the type of the last item, while it is not complete; else empty
  std::string text_;  // of that item
};

class ResponsesFormat : public AnswerFormat {
 public:
  ResponsesFormat(AnswerHead head, ResponsesOptions options)
      : head_(std::move(head)),
        options_(std::move(options)),
        parser_(options_.message),
        items_(head_, [this](const Json& event) { number(event); }) {
    keep(response("in_progress", Json::array()), nullptr, true);
  }
  ResponsesFormat(const ResponsesFormat&) = delete;
  ResponsesFormat& operator=(const ResponsesFormat&) = delete;
  ~ResponsesFormat() override {
    if (!is_over_) keep(response("cancelled", Json::array()), nullptr);
  }

  Json whole(const std::vector<ChoiceState>& choices, LongLists& /*lists*/) const override {
    const ChoiceState& choice = choices.front();
    MessageParser parser(options_.message);
    OutputItems items(head_, nullptr);
    MessagePiece piece = parser.push(choice.text);
    append(parser.finish(), piece);
    items.add(piece);
    items.finish(item_status(choice.finish));
    return end(choice, items.items());
  }

  void piece(const ChoiceState& choice, const TextPiece& piece, const Sink& sink) override {
    sink_ = &sink;
    if (!choice.told_any) {
      for (const char* type : {"response.created", "response.in_progress"})
        number({{"type", type}, {"response", response("in_progress", Json::array())}});
    }
    items_.add(parser_.push(piece.text));
    if (piece.finish != engine::FinishReason::none) {
      items_.add(parser_.finish());
      items_.finish(item_status(piece.finish));
      const Json response = end(choice, items_.items());
      const std::string& status = response["status"].get_ref<const std::string&>();
      number({{"type", status == "incomplete" ? "response.incomplete" : "response.completed"},
              {"response", response}});
    }
    sink_ = nullptr;
  }

  void close(const std::vector<ChoiceState>& /*choices*/, const Sink& /*sink*/) const override {}

  const char* finish_reason(const ChoiceState& before, const TextPiece& last) const override {
    return parsed_finish_reason(options_.message, before, last);
  }

  bool has_typed_events() const override { return true; }

  Json stream_error(const ErrorAnswer& error) override {
    is_over_ = true;
    Json failed = response("failed", items_.items());
    failed["error"] = {{"code", "server_error"}, {"message", error.message}};
    keep(failed, nullptr);
    return {
        {"type", "response.failed"}, {"sequence_number", next_number_++}, {"response", std::move(failed)}};
  }

 private:
  static const char* item_status(engine::FinishReason finish) {
    return finish == engine::FinishReason::stop ? "completed" : "incomplete";
  }

  // `messages`: the whole conversation; null where it cannot be gone on with.
  void keep(Json response, Json messages, bool is_new = false) const {
    if (!options_.store) return;
    options_.store->put(
        head_.id, {options_.holder, std::move(response), options_.input_items, std::move(messages)}, is_new);
  }

  Json response(const char* status, Json output) const {
    Json out = {{"id", head_.id},
                {"object", "response"},
                {"created_at", head_.created},
                {"status", status},
                {"background", false},
                {"error", nullptr},
                {"incomplete_details", nullptr},
                {"model", head_.model},
                {"output", std::move(output)},
                {"usage", nullptr},
                {"store", options_.store != nullptr}};
    out.update(options_.echo);
    return out;
  }

  // What the client is told at the end; the store gets it, too.
  Json end(const ChoiceState& choice, const Json& output) const {
    const bool is_cut = choice.finish == engine::FinishReason::length;
    const bool is_cancelled = choice.finish == engine::FinishReason::aborted;
    Json out = response(is_cut ? "incomplete" : is_cancelled ? "cancelled" : "completed", output);
    if (is_cut) out["incomplete_details"] = {{"reason", "max_output_tokens"}};
    out["completed_at"] = head_.created + static_cast<int64_t>(choice.seconds);
    const int64_t reasoning = count_reasoning_tokens(choice, options_.message->reasoning_opened);
    out["usage"] = {
        {"input_tokens", choice.num_prompt_tokens},
        {"input_tokens_details", {{"cached_tokens", choice.num_cached_tokens}, {"cache_write_tokens", 0}}},
        {"output_tokens", choice.num_completion_tokens},
        {"output_tokens_details", {{"reasoning_tokens", reasoning}}},
        {"total_tokens", choice.num_prompt_tokens + choice.num_completion_tokens}};
    is_over_ = true;
    if (options_.store) {
      Json messages = options_.messages;
      append_output(output, messages);
      keep(out, std::move(messages));
    }
    return out;
  }

  void number(Json event) {
    event["sequence_number"] = next_number_++;
    (*sink_)(event);
  }

  AnswerHead head_;
  ResponsesOptions options_;
  mutable bool is_over_ = false;  // the store has how it ended
  // Of a stream:
  MessageParser parser_;
  OutputItems items_;
  const Sink* sink_ = nullptr;  // while piece() runs
  int64_t next_number_ = 0;
};

}  // namespace

std::unique_ptr<AnswerFormat> make_responses_format(AnswerHead head, ResponsesOptions options) {
  return std::make_unique<ResponsesFormat>(std::move(head), std::move(options));
}

}  // namespace chorale::server
