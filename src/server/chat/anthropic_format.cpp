#include "server/chat/anthropic_format.h"

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/sha256.h"
#include "server/chat/message_answer.h"

namespace chorale::server {
namespace {

// The part of the prompt that the prefix cache had is told apart from the rest, as clients expect.
Json usage(const ChoiceState& choice, const MessageOptions& options) {
  return {{"input_tokens", choice.num_prompt_tokens - choice.num_cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", choice.num_cached_tokens},
          {"output_tokens", choice.num_completion_tokens},
          {"output_tokens_details",
           {{"thinking_tokens", count_reasoning_tokens(choice, options.reasoning_opened)}}}};
}

const char* stop_reason(const ChoiceState& choice, const MessageParser& parser) {
  const std::string_view finish = message_finish_name(choice.finish, parser);
  if (finish == "tool_calls") return "tool_use";
  if (finish == "length") return "max_tokens";
  return choice.matched_stop_string ? "stop_sequence" : "end_turn";
}

Json stop_sequence(const ChoiceState& choice, const MessageParser& parser) {
  const bool is_it = std::string_view(stop_reason(choice, parser)) == "stop_sequence";
  return is_it ? Json(*choice.matched_stop_string) : Json(nullptr);
}

class AnthropicFormat : public AnswerFormat {
 public:
  AnthropicFormat(AnswerHead head, std::shared_ptr<const MessageOptions> options)
      : head_(std::move(head)), options_(std::move(options)), parser_(options_) {}

  Json whole(const std::vector<ChoiceState>& choices, LongLists& /*lists*/) const override {
    const ChoiceState& choice = choices.front();
    MessageParser parser(options_);
    MessagePiece piece = parser.push(choice.text);
    append(parser.finish(), piece);
    Json content = Json::array();
    if (!piece.reasoning.empty())
      content.push_back({{"type", "thinking"}, {"thinking", piece.reasoning}, {"signature", signature()}});
    if (!piece.content.empty()) content.push_back({{"type", "text"}, {"text", piece.content}});
    for (const WholeCall& call : whole_calls(std::move(piece.calls))) {
      Json input = Json::parse(call.arguments, nullptr, false);
      if (!input.is_object()) input = Json::object();
      content.push_back({{"type", "tool_use"},
                         {"id", tool_id(call.index)},
                         {"name", call.name},
                         {"input", std::move(input)}});
    }
    Json answer = message(choice, std::move(content));
    answer["stop_reason"] = stop_reason(choice, parser);
    answer["stop_sequence"] = stop_sequence(choice, parser);
    return answer;
  }

  void piece(const ChoiceState& choice, const TextPiece& piece, const Sink& sink) override {
    if (!choice.told_any) sink({{"type", "message_start"}, {"message", message(choice, Json::array())}});
    MessagePiece parsed = parser_.push(piece.text);
    if (piece.finish != engine::FinishReason::none) append(parser_.finish(), parsed);
    if (!parsed.reasoning.empty()) {
      open("thinking", {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}}, sink);
      tell({{"type", "thinking_delta"}, {"thinking", parsed.reasoning}}, sink);
    }
    if (!parsed.content.empty()) {
      open("text", {{"type", "text"}, {"text", ""}}, sink);
      tell({{"type", "text_delta"}, {"text", parsed.content}}, sink);
    }
    for (const ToolCallDelta& delta : parsed.calls) {
      if (delta.name) {
        close_block(sink);
        const Json block = {{"type", "tool_use"},
                            {"id", tool_id(delta.index)},
                            {"name", *delta.name},
                            {"input", Json::object()}};
        open("tool_use", block, sink);
      }
      if (!delta.arguments.empty())
        tell({{"type", "input_json_delta"}, {"partial_json", delta.arguments}}, sink);
    }
    if (piece.finish != engine::FinishReason::none) close_block(sink);
  }

  void close(const std::vector<ChoiceState>& choices, const Sink& sink) const override {
    const ChoiceState& choice = choices.front();
    sink(
        {{"type", "message_delta"},
         {"delta",
          {{"stop_reason", stop_reason(choice, parser_)}, {"stop_sequence", stop_sequence(choice, parser_)}}},
         {"usage", usage(choice, *options_)}});
    sink({{"type", "message_stop"}});
  }

  const char* finish_reason(const ChoiceState& before, const TextPiece& last) const override {
    return parsed_finish_reason(options_, before, last);
  }

  bool has_typed_events() const override { return true; }
  ErrorForm error_form() const override { return ErrorForm::anthropic; }

 private:
  Json message(const ChoiceState& choice, Json content) const {
    return {{"id", head_.id},
            {"type", "message"},
            {"role", "assistant"},
            {"model", head_.model},
            {"content", std::move(content)},
            {"stop_reason", nullptr},
            {"stop_sequence", nullptr},
            {"usage", usage(choice, *options_)}};
  }

  std::string tool_id(int64_t call) const { return call_id("toolu_", head_, 0, call); }
  // Opaque to clients, which send it back with the block; here nobody looks at it.
  std::string signature() const { return sha256_hex(head_.id).substr(0, 32); }

  // A block of that kind is open after it.
  void open(const std::string& kind, const Json& block, const Sink& sink) {
    if (open_ == kind) return;
    close_block(sink);
    open_ = kind;
    sink({{"type", "content_block_start"}, {"index", index_}, {"content_block", block}});
  }
  void tell(Json delta, const Sink& sink) const {
    sink({{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(delta)}});
  }
  void close_block(const Sink& sink) {
    if (open_.empty()) return;
    if (open_ == "thinking") tell({{"type", "signature_delta"}, {"signature", signature()}}, sink);
    sink({{"type", "content_block_stop"}, {"index", index_++}});
    open_.clear();
  }

  AnswerHead head_;
  std::shared_ptr<const MessageOptions> options_;
  // Of a stream:
  MessageParser parser_;
  std::string open_;  // the type of the block that is being told; empty: none
  int64_t index_ = 0;
};

}  // namespace

std::unique_ptr<AnswerFormat> make_anthropic_format(AnswerHead head,
                                                    std::shared_ptr<const MessageOptions> message) {
  return std::make_unique<AnthropicFormat>(std::move(head), std::move(message));
}

}  // namespace chorale::server
