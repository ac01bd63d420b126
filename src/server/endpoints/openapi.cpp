#include "server/endpoints/openapi.h"

#include <string>

// src/server/endpoints/openapi.json, see cmake/ChoraleEmbed.cmake.
extern "C" {
extern const char chorale_embedded_openapi[], chorale_embedded_openapi_end[];
}

namespace chorale::server {

HttpResponse openapi(ServerState& /*state*/, const HttpRequest& /*request*/) {
  return {.body = std::string(chorale_embedded_openapi, chorale_embedded_openapi_end)};
}

}  // namespace chorale::server
