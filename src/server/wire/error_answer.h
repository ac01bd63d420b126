// What a client is told when its request fails.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "server/http/exchange.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// Tokens that are more than a context holds.
struct ContextOverflow {
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;  // asked for; 0: the prompt alone is too long
  int64_t context_len = 0;
};

struct ErrorAnswer {
  int status = 400;  // the HTTP status
  std::string message;
  std::string param;  // the name of the offending field; empty: about the request as a whole
  std::string code;   // by which clients tell this kind of error; empty: the status
  std::optional<ContextOverflow> overflow;  // where it is what is wrong, and was counted
};

// The code of requests whose prompt and answer have too many tokens together, as clients look for it to
// shorten the conversation and ask again.
inline constexpr const char* kContextLengthExceeded = "context_length_exceeded";

// The one place where a kind of error becomes a status.
ErrorAnswer answer_to(RequestError error);

// openai: {"error": {"message", "type", "param", "code"}}; anthropic: {"type": "error", "error": {"type",
// "message"}}, with Anthropic's types.
enum class ErrorForm { openai, anthropic };

// That of the endpoint which a request's path names.
ErrorForm error_form_of(std::string_view path);

Json error_json(const ErrorAnswer& error, ErrorForm form = ErrorForm::openai);
HttpResponse error_response(const ErrorAnswer& error, ErrorForm form = ErrorForm::openai);

}  // namespace chorale::server
