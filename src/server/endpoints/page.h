// GET /: the page for people, one file that was built from web/ and is part of the program.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// With the policy that its build computed: the page may load nothing, and talk to this server alone.
HttpResponse page(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
