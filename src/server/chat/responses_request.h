// Conversations in the schema of OpenAI's Responses, brought into the form that all chats here have.
#pragma once

#include <optional>

#include "server/chat/tools.h"
#include "server/generation/request_context.h"
#include "server/generation/structured_output.h"
#include "server/wire/fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct ResponsesConversation {
  ToolRequest tools;
  Json variables;    // of the chat template; its messages begin with the instructions
  Json messages;     // without them, for the next response
  Json input_items;  // of this request
  std::optional<RequestedFormat> format;
  Json echo;  // fields of the request that the answer repeats
};

// Reads "input", "instructions", "previous_response_id", "tools", "tool_choice", "parallel_tool_calls",
// "text" and "reasoning", and what chats here have beside: "chat_template_kwargs" and the names of other
// formats. Items of one turn of the assistant (reasoning, text, calls) become one message. Throws BadRequest
// for what is malformed, and by name for files, images, and tools that OpenAI's servers run.
ResponsesConversation read_responses_conversation(Fields& fields, const RequestContext& context);

// The message of the assistant that these output items are, in the form of chat templates.
void append_output(const Json& items, Json& messages);

}  // namespace chorale::server
