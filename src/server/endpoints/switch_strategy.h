// Changing the strategy while requests run.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// POST /switch_strategy {"strategy": "tp=2,dp=2,ep=4"}: answers when that is in force. Throws BadRequest for
// what is no strategy; a 400 that says why where it does not fit, a 409 while another change is under way.
void switch_strategy(ServerState& state, const HttpRequest& request,
                     const std::shared_ptr<Exchange>& exchange);

}  // namespace chorale::server
