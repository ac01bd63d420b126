// What clients may tell the engine to do.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// POST /abort_request, {"rid": ...} or {"abort_all": true}: ends the requests of that id, or all. Throws
// BadRequest.
HttpResponse abort_request(ServerState& state, const HttpRequest& request);

// GET or POST /flush_cache: empties the prefix cache.
HttpResponse flush_cache(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
