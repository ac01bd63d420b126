// POST /v1/completions.
#pragma once

#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Reads the body and tokenizes. Choices are ordered by prompt, then by n. Throws BadRequest.
AnswerPlan plan_completions(const Json& body, AnswerHead head, const RequestContext& context);

}  // namespace chorale::server
