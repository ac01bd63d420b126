// POST /v1/responses, and what is done with the responses that are kept.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/request_context.h"
#include "server/http/exchange.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Throws BadRequest.
AnswerPlan plan_responses(const Json& body, AnswerHead head, const RequestContext& context);

// GET and DELETE of /v1/responses/{name}; GET of its input items; POST to cancel one that runs. All throw
// BadRequest: 404 where there is none of that id.
HttpResponse stored_response(ServerState& state, const HttpRequest& request);
HttpResponse response_input_items(ServerState& state, const HttpRequest& request);
HttpResponse cancel_response(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
