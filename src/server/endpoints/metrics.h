// GET /metrics: Prometheus text; docs/metrics.md lists the names.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

HttpResponse metrics_text(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
