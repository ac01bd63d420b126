// Where the HTTP server listens, whom it lets in, and bounds on what clients may send or make it hold.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace chorale::server {

struct HttpOptions {
  std::string host = "127.0.0.1";  // a numeric address or a name that resolves to one
  int port = 30000;                // 0: any free port; the ready line tells which
  int io_threads = 2;              // that serve connections

  // Empty: no key is needed. Else every path but /, /health and /metrics wants one of these.
  std::vector<std::string> api_keys;

  // Empty: what api_keys let in may do everything. Else administrators' doors want one of these, which open
  // all others, too.
  std::vector<std::string> admin_api_keys;

  // Of web pages of other sites that may use the server, see CorsPolicy.
  std::vector<std::string> cors_origins;

  uint64_t max_body_bytes = 8U << 20;
  uint64_t max_header_bytes = 16U << 10;     // the request line included
  uint64_t max_target_bytes = 8U << 10;      // the path and query of the request line
  uint64_t max_buffered_bytes = 256U << 20;  // in all requests that are read or worked on; beyond it 503
  int64_t max_connections = 8192;            // beyond it a connection gets one 503 and is closed
  size_t max_write_queue_bytes = 1U << 20;  // unread bytes of a stream before a client that stalls is cut off

  std::chrono::milliseconds header_timeout{10'000};  // from a request's first byte to the end of its header
  std::chrono::milliseconds body_timeout{60'000};    // from there to the end of its body
  std::chrono::milliseconds idle_timeout{75'000};    // between two requests on one connection
  // Clients that take less than 1 KiB per second over this time, while there is more, are cut off;
  std::chrono::milliseconds write_timeout{30'000};
  // so are those with more than max_write_queue_bytes to take and less than 64 KiB per second taken.
  std::chrono::milliseconds stall_timeout{1'000};
  // A stream that has sent nothing for so long sends a comment: proxies cut what is silent. 0: never.
  std::chrono::milliseconds ping_interval{15'000};
};

}  // namespace chorale::server
