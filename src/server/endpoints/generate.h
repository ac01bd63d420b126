// POST /generate: the native endpoint, with the fields of SGLang's.
#pragma once

#include <string>

#include "server/generation/answer.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Reads the body and tokenizes. `id` is the engine's name for the request, told to the client where it gives
// no "rid". Throws BadRequest.
AnswerPlan plan_generate(const Json& body, const std::string& id, const RequestContext& context);

}  // namespace chorale::server
