// Text to tokens and back. Fields and names are those that clients of SGLang, vLLM and llama-server send and
// read.
#pragma once

#include "server/generation/request_context.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// POST /tokenize: "prompt", "text" or "content" (a string, or for the first two a list of them), or
// "messages", which the chat template renders; "add_special_tokens", "return_token_strs". Answers "tokens",
// "count" and "max_model_len", lists for a list. Throws BadRequest.
Json tokenize(const Json& body, const RequestContext& context);

// POST /detokenize: "tokens", a list of ids or a list of such lists; "skip_special_tokens" (false). Answers
// the same text as "text", "prompt" and "content". Throws BadRequest.
Json detokenize(const Json& body, const RequestContext& context);

}  // namespace chorale::server
