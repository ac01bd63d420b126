// The messages of a chat request, checked and brought into the form that chat templates read.
#pragma once

#include "server/json_body.h"

namespace chorale::server {

// `value` is the request's "messages". Text parts are joined by line breaks into one string, "developer"
// becomes "system", tool calls of earlier answers and reasoning stay. Parts other than text are a BadRequest.
Json read_messages(const Json& value);

}  // namespace chorale::server
