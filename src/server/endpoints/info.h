// What is served and how, in the form of SGLang.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"

namespace chorale::server {

// GET /get_model_info, /model_info. Paths of the server's machine are not told: "model_path" is the served
// name.
HttpResponse model_info(ServerState& state, const HttpRequest& request);

// GET /get_server_info, /server_info: how the model is run, its limits, and what it does at the moment.
HttpResponse server_info(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
