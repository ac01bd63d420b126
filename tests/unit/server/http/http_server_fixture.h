// A server without a model, whose paths try what HTTP asks of it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "server/http/http_server.h"
#include "unit/server/http/raw_client.h"

namespace chorale::server {

// Twenty of them are more than a socket takes for a client that does not read.
inline constexpr size_t kPartBytes = 512U << 10;

inline HttpOptions test_options() {
  HttpOptions options;
  options.port = 0;
  options.io_threads = 2;
  options.max_body_bytes = 100'000;
  options.max_header_bytes = 4096;
  options.max_target_bytes = 2048;
  options.max_write_queue_bytes = 256U << 10;
  options.stall_timeout = std::chrono::milliseconds(20);
  return options;
}

inline int port_of(const std::string& url) {
  return std::stoi(url.substr(url.rfind(':') + 1));
}

// "/echo" answers with the body; "/hold" waits; "/stream" sends large events until the client is gone,
// "/drip" small ones slowly; "/three" sends three; else a 404.
class HttpServerTest : public ::testing::Test {
 protected:
  void serve(const HttpOptions& options = test_options()) {
    http_ = std::make_unique<HttpServer>(
        options,
        [this](HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
          handle(std::move(request), exchange);
        },
        [](int status, std::string_view message, std::string_view /*path*/) {
          return std::to_string(status) + ": " + std::string(message);
        },
        [](const HttpRequest& request) -> std::optional<HttpRefusal> {
          if (!request.path.starts_with("/secret") || request.keys == std::vector<std::string>{"key"})
            return {};
          return HttpRefusal{.status = 401, .message = "no", .headers = {{"WWW-Authenticate", "Bearer"}}};
        });
    http_->listen();
    thread_ = std::thread([this] { http_->run(); });
  }
  ~HttpServerTest() override {
    if (!http_) return;
    http_->finish();
    thread_.join();
  }
  int port() const { return port_of(http_->url()); }
  bool eventually(const std::function<bool()>& condition) const {
    for (int i = 0; i < 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::atomic<int> gone_{0};
  std::atomic<size_t> seen_keys_{0};
  std::unique_ptr<HttpServer> http_;
  int64_t pump_limit_ = INT64_MAX;          // messages of "/stream"
  std::shared_ptr<const ByteLease> lease_;  // of the last body of "/work"
  std::atomic<int> num_parts_{0};

 private:
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
    seen_keys_ += request.keys.size();
    if (request.path == "/echo" || request.path == "/secret") {
      exchange->respond({.body = request.method + " " + request.content_type + " " + request.body});
    } else if (request.path == "/hold") {
      exchange->on_gone([this] { ++gone_; });
    } else if (request.path == "/work") {
      lease_ = request.lease;
      exchange->respond({.body = "in work"});
    } else if (request.path == "/parts") {
      exchange->on_gone([this] { ++gone_; });
      exchange->respond_in_parts({}, [this](std::string& out) {
        out.assign(kPartBytes, static_cast<char>('a' + num_parts_));
        return ++num_parts_ < 20;
      });
    } else if (request.path == "/throw") {
      throw std::bad_alloc();
    } else if (request.path == "/throw-later") {
      exchange->post([exchange] { throw std::bad_alloc(); });
    } else if (request.path == "/failing-parts") {
      exchange->respond_in_parts({}, [](std::string&) -> bool { throw std::runtime_error("no memory"); });
    } else if (request.path == "/stream" || request.path == "/drip") {
      exchange->on_gone([this] { ++gone_; });
      exchange->begin_stream();
      request.path == "/stream" ? pump(exchange) : drip(exchange);
    } else if (request.path == "/silent") {
      exchange->on_gone([this] { ++gone_; });
      exchange->begin_stream();
      http_->after(std::chrono::milliseconds(400), [exchange] {
        exchange->post([exchange] {
          exchange->send_event("at last", "");
          exchange->end_stream();
        });
      });
    } else if (request.path == "/three") {
      exchange->begin_stream();
      for (const char* event : {"one", "two", "three"}) exchange->send_event(event, "");
      exchange->end_stream();
      exchange->send_event("too late", "");
    } else {
      exchange->respond({.status = 404, .body = "none"});
    }
  }
  void pump(const std::shared_ptr<Exchange>& exchange) {
    exchange->send_event(std::string(8192, 'x'), "");
    if (gone_ == 0 && ++pumped_ <= pump_limit_) exchange->post([this, exchange] { pump(exchange); });
  }
  void drip(const std::shared_ptr<Exchange>& exchange) {
    exchange->send_event("x", "");
    if (gone_ > 0) return;
    http_->after(std::chrono::milliseconds(5),
                 [this, exchange] { exchange->post([this, exchange] { drip(exchange); }); });
  }

  std::atomic<int64_t> pumped_{0};
  std::thread thread_;
};

}  // namespace chorale::server
