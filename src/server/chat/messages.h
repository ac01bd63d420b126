// The messages of a chat request, checked and brought into the form that chat templates read.
#pragma once

#include "server/wire/json_body.h"

namespace chorale::server {

// `value` is the request's "messages". Text parts are joined by line breaks into one string, "developer"
// becomes "system", tool calls of earlier answers and reasoning stay. Reasoning is "reasoning_content"
// under either of its names. Parts other than text, and refusals of earlier answers, are a BadRequest.
Json read_messages(const Json& value);

// Whether any of the messages has calls.
bool has_tool_calls(const Json& messages);

// For templates that want the arguments of calls as objects: those that are strings become what they say, and
// what does not say an object becomes {"arguments": the string}, so that a model can be shown its mistakes.
void parse_tool_arguments(Json& messages);

}  // namespace chorale::server
