// POST /v1/completions.
#pragma once

#include "server/answer.h"
#include "server/json_body.h"
#include "server/openai_common.h"
#include "server/sampling_fields.h"

namespace chorale::server {

// Reads the body and tokenizes. Choices are ordered by prompt, then by n. Throws BadRequest.
AnswerPlan plan_completions(const Json& body, AnswerHead head, const RequestContext& context);

}  // namespace chorale::server
