// Whether the server works.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// GET /health, and GET or POST /ping, where SageMaker asks: 200; 503 while the server drains, and when its
// model has failed. Throws BadRequest.
HttpResponse health(ServerState& state, const HttpRequest& request);

// GET /health_generate: 200 once the model has made a token, 503 if it does not. Throws BadRequest.
void health_generate(ServerState& state, const HttpRequest& request,
                     const std::shared_ptr<Exchange>& exchange);

}  // namespace chorale::server
