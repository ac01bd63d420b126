// Which web pages of other sites may use the server (https://fetch.spec.whatwg.org/#http-cors-protocol).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http/request.h"

namespace chorale::server {

// Immutable.
class CorsPolicy {
 public:
  // Origins as browsers send them, "https://example.org:8443", or "*": all. Empty: none, and answers have no
  // headers of CORS.
  explicit CorsPolicy(std::vector<std::string> origins);

  // Whether a browser asks in this request what a page of an origin that is allowed may send. It has no key.
  bool is_preflight(const HttpRequest& request) const;
  // The lines that an answer to the request has, each with its line break; also an answer to a preflight.
  std::string header_lines(const HttpRequest& request) const;

 private:
  bool allows(std::string_view origin) const;

  std::vector<std::string> origins_;
  bool allows_all_ = false;
};

// Whether a text is an origin, or "*".
bool is_cors_origin(std::string_view text);

}  // namespace chorale::server
