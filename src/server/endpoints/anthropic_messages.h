// POST /v1/messages and /v1/messages/count_tokens: chats in Anthropic's schema.
#pragma once

#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/request_context.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Throws BadRequest.
AnswerPlan plan_messages(const Json& body, AnswerHead head, const RequestContext& context);
Json count_message_tokens(const Json& body, const RequestContext& context);

}  // namespace chorale::server
