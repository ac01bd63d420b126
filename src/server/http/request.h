// A request as the endpoints get it, and the bounds on what is read of one.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace chorale::server {

// A request's share of the bytes that all requests may hold. Gives it back when it ends; the counter outlives
// it.
class ByteLease {
 public:
  ByteLease(std::atomic<uint64_t>& counter, uint64_t bytes) : counter_(counter), bytes_(bytes) {}
  ~ByteLease() { counter_ -= bytes_; }
  ByteLease(const ByteLease&) = delete;
  ByteLease& operator=(const ByteLease&) = delete;

 private:
  std::atomic<uint64_t>& counter_;
  const uint64_t bytes_;
};

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
  std::string holder;             // by which what belongs to a holder of keys is known; empty without a key
  std::string id;                 // X-Request-Id, where it can be repeated; else empty
  CorsRequest cors;
  std::string body;
  std::shared_ptr<const ByteLease> lease;         // of the body; held while anybody works on it
  std::chrono::steady_clock::time_point arrival;  // when its endpoint got it
};

struct HttpLimits {
  uint64_t max_header_bytes = 16U << 10;  // the request line included
  uint64_t max_target_bytes = 8U << 10;
  uint64_t max_body_bytes = 8U << 20;
};

}  // namespace chorale::server
