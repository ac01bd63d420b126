// A request as the endpoints get it, and the bounds on what is read of one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace chorale::server {

// What a browser says of the page that sends a request; all empty for other clients.
struct CorsRequest {
  std::string origin;
  // Of a question in advance (OPTIONS): what the page means to send.
  std::string method;
  std::string headers;
  bool private_network = false;
};

struct HttpRequest {
  std::string method;             // "GET", "POST", ...
  std::string path;               // without the query
  std::string content_type;       // lower case, without parameters; empty when not given
  std::vector<std::string> keys;  // what the client presents as its API key; endpoints do not get to see them
  std::string id;                 // X-Request-Id, where it can be repeated; else empty
  CorsRequest cors;
  std::string body;
  std::chrono::steady_clock::time_point arrival;  // when its endpoint got it
};

struct HttpLimits {
  uint64_t max_header_bytes = 16U << 10;  // the request line included
  uint64_t max_target_bytes = 8U << 10;
  uint64_t max_body_bytes = 8U << 20;
};

}  // namespace chorale::server
