// The prompt of a chat request, as the model's chat template writes it.
#pragma once

#include <string>
#include <string_view>

#include "server/chat/tool_call_format.h"
#include "server/chat/tools.h"
#include "server/generation/output_constraint.h"
#include "server/generation/request_context.h"
#include "server/wire/fields.h"
#include "server/wire/json_body.h"
#include "text/chat_template.h"

namespace chorale::server {

// Adds "chat_template_kwargs" and "enable_thinking". Throws BadRequest, also for a variable that is there.
void read_template_kwargs(Fields& fields, Json& variables);

// The variables of the template: "messages", "tools" and the other fields that it reads. Throws BadRequest.
Json template_variables(Fields& fields, const ToolRequest& tools);

// The model's template. Throws BadRequest where it has none that can be used.
const text::ChatTemplate& chat_template(const RequestContext& context);

// Throws BadRequest where the template refuses its variables.
std::string render_template(const text::ChatTemplate& chat, const Json& variables);

// The form of calls that the template asks the model for, seen from what it writes about a tool; nullptr: it
// does not write about tools.
const ToolCallFormat* tool_call_format_of(const text::ChatTemplate& chat);

// For "continue_final_message": the prompt up to the end of its last message, which the output goes on with.
// Throws BadRequest where that is no text of the assistant, or the template has changed it.
std::string cut_after_last_message(std::string prompt, const Json& messages);

// Whether such a prompt ends inside of its reasoning.
bool continues_reasoning(std::string_view prompt);

// How the output begins after this prompt.
ReasoningStart reasoning_start(std::string_view prompt);

// A prompt and the form of calls in it: that of the calls that the model may make, and of earlier ones;
// nullptr: there are none.
struct ChatPrompt {
  std::string text;
  const ToolCallFormat* call_format = nullptr;
};

// `variables` are those of template_variables(). continues: the last message is the beginning of the answer.
// Throws BadRequest.
ChatPrompt render_chat(Json variables, const ToolRequest& tools, bool continues,
                       const RequestContext& context);

}  // namespace chorale::server
