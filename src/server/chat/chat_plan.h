// From a conversation, in whatever schema it came, to what the engine is asked: the one way of all endpoints
// that chat. They differ in how they read a request and in how they tell the answer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "server/chat/message_parser.h"
#include "server/chat/tools.h"
#include "server/generation/answer.h"
#include "server/generation/request_context.h"
#include "server/generation/sampling_fields.h"
#include "server/generation/structured_output.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct ChatRequest {
  SamplingRequest sampling;
  ToolRequest tools;
  Json variables;          // of the chat template, "messages" among them
  bool continues = false;  // the answer goes on with the last message
  // How the text becomes a message, as far as the request says it.
  MessageOptions message;
  std::optional<RequestedFormat> text_format;
  std::string cache_salt;  // as read_cache_salt() gives it; empty: the request says nothing of it
  int64_t num_choices = 1;
  int32_t num_top_logprobs = -1;  // as in engine::GenerationRequest
  bool stream = false;
  std::string messages_param = "messages";  // the field that a prompt that is too long is told of
};

struct ChatPlan {
  AnswerPlan answer;  // but for its format
  std::shared_ptr<const MessageOptions> message;
};

// Throws BadRequest. `id`: what the client knows the request by.
ChatPlan plan_chat_answer(ChatRequest request, const std::string& id, const RequestContext& context);

}  // namespace chorale::server
