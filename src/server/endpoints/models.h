// Which model is served, in OpenAI's form.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// GET /v1/models: a list of one.
HttpResponse list_models(ServerState& state, const HttpRequest& request);

// GET /v1/models/{name}. Throws BadRequest for any other name than the served one.
HttpResponse describe_model(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
