// What an endpoint sees of HTTP: a request, and the exchange that its answer goes to.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/request.h"

namespace chorale::server {

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;  // beside content type, length and connection
};

// The parts of a body, one after the other: appends the next to `out`, and tells whether there are more.
using BodyParts = std::function<bool(std::string& out)>;

// One request that waits for its answer. Exactly one of respond(), respond_in_parts() or
// begin_stream()...end_stream() answers
// it. All functions but post() must be called on the connection's strand: from the handler or from what
// post() runs. Everything is a no-op once the client is gone.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // Runs the function later on the connection's strand. Thread-safe; also after the client has gone.
  virtual void post(std::function<void()> function) = 0;

  virtual void respond(HttpResponse response) = 0;

  // The same with a body that is asked for in parts, on the strand, each when the client has taken those
  // before. `response` has none.
  virtual void respond_in_parts(HttpResponse response, BodyParts parts) = 0;

  // 200 with server-sent events.
  virtual void begin_stream() = 0;
  // One event: "data: PAYLOAD", after "event: NAME" where the name is not empty. Neither may contain line
  // breaks. A client that lets more than
  // max_write_queue_bytes pile up and takes next to nothing for stall_timeout is cut off.
  virtual void send_event(std::string_view payload, std::string_view name) = 0;
  virtual void end_stream() = 0;
  // Bytes that the client has not taken yet.
  virtual size_t queued_bytes() const = 0;

  // Called once, on the strand, if the client goes away or is cut off before the answer is complete.
  virtual void on_gone(std::function<void()> callback) = 0;
  // Called once, on the strand, after the delay, unless the answer is complete or the client gone by then.
  virtual void on_timeout(std::chrono::milliseconds delay, std::function<void()> callback) = 0;
};

// Runs on the connection's strand; must not throw.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<Exchange>)>;

// What the HTTP layer itself answers to requests that it cannot hand over, e.g. 413: the body for status and
// message. The path is "?" where the request's header was not read.
using HttpErrorBody = std::function<std::string(int status, std::string_view message, std::string_view path)>;

// An answer in place of the handler's.
struct HttpRefusal {
  int status = 400;
  std::string message;
  std::vector<std::pair<std::string, std::string>> headers;
};

// Asked after a request's header, before its body is read: the refusal, or nothing. Any serving thread; must
// not throw.
using HttpAdmission = std::function<std::optional<HttpRefusal>(const HttpRequest&)>;

}  // namespace chorale::server
