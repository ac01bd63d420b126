// POST /generate: the native endpoint, with the fields of SGLang's.
#pragma once

#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Reads the body and tokenizes. The head's id is told to the client where it gives no "rid". Throws
// BadRequest.
AnswerPlan plan_generate(const Json& body, AnswerHead head, const RequestContext& context);

}  // namespace chorale::server
