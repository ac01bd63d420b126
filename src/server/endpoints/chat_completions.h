// POST /v1/chat/completions.
#pragma once

#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Reads the body, renders the chat template and tokenizes. Throws BadRequest.
AnswerPlan plan_chat(const Json& body, AnswerHead head, const RequestContext& context);

}  // namespace chorale::server
