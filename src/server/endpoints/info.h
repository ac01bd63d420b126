// What is served and how, in the form of SGLang.
#pragma once

#include "server/endpoints/server_state.h"
#include "server/http/exchange.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// GET /get_model_info, /model_info. Paths of the server's machine are not told: "model_path" is the served
// name.
HttpResponse model_info(ServerState& state, const HttpRequest& request);

// GET /get_load, for routers of SGLang: requests and their tokens. All groups of ranks count as one.
HttpResponse load_info(ServerState& state, const HttpRequest& request);

// What tokenizer_config.json of the model says, as far as it can be read, with the chat template that is
// used; a request does not read files.
Json read_tokenizer_info(const ServerModel& model);

// GET /tokenizer_info, as vLLM has it: the special tokens and the chat template.
HttpResponse tokenizer_info(ServerState& state, const HttpRequest& request);

// GET /version, as vLLM has it: Chorale's version.
HttpResponse version(ServerState& state, const HttpRequest& request);

// GET /get_server_info, /server_info: how the model is run, its limits, and what it does at the moment.
HttpResponse server_info(ServerState& state, const HttpRequest& request);

}  // namespace chorale::server
