// Conversations in Anthropic's Messages schema, brought into the form that all chats here have.
#pragma once

#include <optional>

#include "server/chat/tools.h"
#include "server/generation/structured_output.h"
#include "server/wire/fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct AnthropicConversation {
  ToolRequest tools;
  Json variables;          // of the chat template
  bool continues = false;  // the last message is the assistant's, which the answer goes on with
  std::optional<RequestedFormat> format;
  std::optional<int64_t> thinking_budget;  // tokens
  bool include_thinking = true;            // in the answer
};

// Reads "system", "messages", "tools", "tool_choice", "thinking" and "output_config", and what
// chats here have beside: "chat_template_kwargs" and the names of other formats. Results of tools become
// messages of their own, thinking the reasoning of its message. Throws BadRequest for what is malformed, and,
// by name, for images, documents and tools that Anthropic's servers run.
AnthropicConversation read_anthropic_conversation(Fields& fields);

}  // namespace chorale::server
