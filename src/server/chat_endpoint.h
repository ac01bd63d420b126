// POST /v1/chat/completions.
#pragma once

#include <string>

#include "server/answer.h"
#include "server/fields.h"
#include "server/json_body.h"
#include "server/openai_common.h"
#include "server/sampling_fields.h"

namespace chorale::server {

// Reads the body, renders the chat template and tokenizes. Throws BadRequest.
AnswerPlan plan_chat(const Json& body, AnswerHead head, const RequestContext& context);

// The prompt of "messages" and the other fields that the chat template reads. Throws BadRequest.
std::string render_chat(Fields& fields, const RequestContext& context);

}  // namespace chorale::server
