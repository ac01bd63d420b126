// GET /openapi.json: the description of all endpoints.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

HttpResponse openapi(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
