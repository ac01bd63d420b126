// A request as the endpoints get it, and the bounds on what is read of one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace chorale::server {

struct HttpRequest {
  std::string method;             // "GET", "POST", ...
  std::string path;               // without the query
  std::string content_type;       // lower case, without parameters; empty when not given
  std::vector<std::string> keys;  // what the client presents as its API key; endpoints do not get to see them
  std::string body;
  std::chrono::steady_clock::time_point arrival;  // when its endpoint got it
};

struct HttpLimits {
  uint64_t max_header_bytes = 16U << 10;  // the request line included
  uint64_t max_target_bytes = 8U << 10;
  uint64_t max_body_bytes = 8U << 20;
};

}  // namespace chorale::server
