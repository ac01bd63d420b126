// How many tokens go to each expert, recorded on request, in the form of SGLang. The counts are asked of the
// engine, which answers between two steps.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// GET or POST /start_expert_distribution_record, /stop_..., /dump_... Throw BadRequest for a model without
// experts.
void start_recording_experts(ServerState& state, const HttpRequest& request,
                             const std::shared_ptr<Exchange>& exchange);
void stop_recording_experts(ServerState& state, const HttpRequest& request,
                            const std::shared_ptr<Exchange>& exchange);
void dump_recorded_experts(ServerState& state, const HttpRequest& request,
                           const std::shared_ptr<Exchange>& exchange);

}  // namespace chorale::server
