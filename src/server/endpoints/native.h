// The native endpoints that answer at once: text to tokens and back, and what is served. Fields and names are
// those that clients of SGLang, vLLM and llama-server send and read.
#pragma once

#include "engine/engine.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// POST /tokenize: "prompt", "text" or "content" (a string, or for the first two a list of them), or
// "messages", which the chat template renders; "add_special_tokens", "return_token_strs". Answers "tokens",
// "count" and "max_model_len", lists for a list. Throws BadRequest.
Json tokenize(const Json& body, const RequestContext& context);

// POST /detokenize: "tokens", a list of ids or a list of such lists; "skip_special_tokens" (false). Answers
// the same text as "text", "prompt" and "content". Throws BadRequest.
Json detokenize(const Json& body, const RequestContext& context);

// GET /get_model_info. Paths of the server's machine are not told: "model_path" is the served name.
Json model_info(const RequestContext& context);

// GET /get_server_info: how the model is run, its limits, and what it does at the moment.
Json server_info(const RequestContext& context, const engine::EngineStats& stats);

}  // namespace chorale::server
