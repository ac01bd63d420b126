// What a client is told when its request fails.
#pragma once

#include "base/error.h"
#include "server/http/exchange.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// The error object of all endpoints: {"error": {"message", "type", "param", "code"}}.
Json error_json(const RequestError& error);
HttpResponse error_response(const RequestError& error);

}  // namespace chorale::server
