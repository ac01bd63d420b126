// HTTP/1.1 to one server: many requests at once, each over a connection of its own, on the thread that calls
// run(). No Boost in this header.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "tools/bench_serve/url.h"

namespace chorale::bench_serve {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// A part of an answer's body, as soon as it is there. The view holds during the call.
struct BodyPart {
  int status = 0;
  std::string_view bytes;
  Clock::time_point arrived;
};

struct HttpEnd {
  int status = 0;     // 0: there was no answer
  std::string error;  // empty: the answer was read to its end
};

struct HttpCall {
  std::string method = "GET";
  std::string path;  // below the server's prefix: "/v1/models"
  std::string body;  // JSON; empty: none
  std::function<void(const BodyPart&)> on_body;
  std::function<void(const HttpEnd&)> on_end;  // once, last
};

// Not thread-safe.
class HttpClient {
 public:
  // Looks the host up. Throws Error when it is not known. With a key, it is sent as a bearer token. A request
  // that takes longer than the timeout, from the connection to the end of its answer, fails.
  HttpClient(const Url& url, std::string api_key, Seconds timeout);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  void send(HttpCall call);
  void at(Clock::time_point when, std::function<void()> function);
  // Until every request has ended and every function was called. The callbacks may send more, and what they
  // throw comes out here.
  void run();

  const Url& url() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One request alone, and its whole answer, of at most some megabytes.
struct HttpAnswer {
  HttpEnd end;
  std::string body;
};
HttpAnswer ask(HttpClient& client, std::string method, std::string path);

}  // namespace chorale::bench_serve
