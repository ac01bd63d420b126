// Where experts live, and moving them to their load while requests run.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// GET /expert_placement: which logical expert each slot holds, and how evenly the load falls. Throws
// BadRequest for a model without experts.
HttpResponse expert_placement(ServerState& state, const HttpRequest& request);

// POST /rebalance_experts: a placement by the load of late; answers when it is in force. Throws BadRequest
// for a model without experts; a 400 where no expert can move.
void rebalance_experts(ServerState& state, const HttpRequest& request,
                       const std::shared_ptr<Exchange>& exchange);

}  // namespace chorale::server
