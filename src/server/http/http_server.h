// HTTP/1.1, asynchronous. No Boost in this header.
//
// Connections are kept alive and may be pipelined; one request at a time is handled per connection. While a
// request is being handled the connection watches for the client going away: the end of its stream, too.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "server/http/exchange.h"
#include "server/http/options.h"

namespace chorale::server {

class HttpServer {
 public:
  // Without an admission every request is read.
  HttpServer(const HttpOptions& options, HttpHandler handler, HttpErrorBody error_body,
             HttpAdmission admission = nullptr);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Raises the process's limit of open files as far as it goes. Throws Error that names --host, --port
  // or --max-buffered-bytes.
  void listen();
  std::string url() const;

  // Calls back with the status of each answer that is begun, on the serving threads. Call before listen().
  void on_status(std::function<void(int)> callback);

  // Serves on this thread and io_threads - 1 more until finish().
  void run();
  // Calls back on a serving thread, once, after SIGTERM or SIGINT; from then on these signals have their
  // default effect. Call before run().
  void on_signal(std::function<void()> callback);
  // Calls back on a serving thread after the delay. Thread-safe.
  void after(std::chrono::milliseconds delay, std::function<void()> callback);
  // From now on connections are closed after their answer. Thread-safe.
  void set_draining();
  // Requests that are not completely answered. Thread-safe.
  int64_t active_exchanges() const;
  // Large bodies that were read or answered, ever: what they took is free memory now, or soon. Thread-safe.
  uint64_t large_bodies() const;
  // Makes run() return soon, open connections notwithstanding. Thread-safe.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::server
