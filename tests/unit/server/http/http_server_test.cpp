#include "server/http/http_server.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "server/http/cors.h"
#include "server/http/framing.h"
#include "unit/server/http/raw_client.h"

namespace chorale::server {
namespace {

// Twenty of them are more than a socket takes for a client that does not read.
constexpr size_t kPartBytes = 512U << 10;

HttpOptions test_options() {
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

int port_of(const std::string& url) {
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

TEST_F(HttpServerTest, ABodyCountsUntilNobodyWorksOnIt) {
  HttpOptions options = test_options();
  options.max_buffered_bytes = options.max_body_bytes;
  serve(options);
  RawClient client(port());
  const std::string body(60'000, 'x');
  client.post("/work", body);
  EXPECT_EQ(client.read_response().status, 200);
  RawClient second(port());
  second.post("/echo", body);
  const RawResponse refused = second.read_response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  lease_.reset();
  client.post("/echo", body);
  EXPECT_EQ(client.read_response().status, 200);
}

TEST_F(HttpServerTest, PartsOfABodyAreMadeAsTheClientTakesThem) {
  serve();
  RawClient client(port(), 4096);
  client.get("/parts");
  ASSERT_TRUE(client.read_until("aaaa"));
  EXPECT_LT(num_parts_, 20) << "all was made for a client that takes nothing";
  const RawResponse response = client.read_response();
  EXPECT_EQ(response.headers.at("Transfer-Encoding"), "chunked");
  std::string expected;
  for (int i = 0; i < 20; ++i) expected += std::string(kPartBytes, static_cast<char>('a' + i));
  EXPECT_EQ(response.body, expected);
  client.post("/echo", "again");
  EXPECT_EQ(client.read_response().status, 200) << "the connection is kept";

  num_parts_ = 0;
  RawClient old(port());
  old.send("GET /parts HTTP/1.0\r\n\r\n");
  const RawResponse to_the_end = old.read_response();
  EXPECT_FALSE(to_the_end.headers.contains("Transfer-Encoding"));
  EXPECT_EQ(to_the_end.body, expected);
  EXPECT_EQ(gone_, 0);
}

TEST_F(HttpServerTest, WhatFailsEndsItsConnectionAlone) {
  serve();
  for (const char* path : {"/failing-parts", "/throw", "/throw-later"}) {
    RawClient client(port());
    client.get(path);
    EXPECT_TRUE(client.closed_within(5000)) << path;
    EXPECT_TRUE(eventually([&] { return http_->active_exchanges() == 0; })) << path;
  }
  RawClient other(port());
  other.post("/echo", "x");
  EXPECT_EQ(other.read_response().status, 200);
}

TEST_F(HttpServerTest, KeepsConnectionsAliveAndServesPipelinedRequestsInOrder) {
  serve();
  RawClient client(port());
  std::string many;
  for (int i = 0; i < 50; ++i) {
    const std::string body = "body " + std::to_string(i);
    many +=
        "POST /echo?q=1 HTTP/1.1\r\nHost: x\r\nContent-Type: Text/Plain; charset=utf-8\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body + "\r\n";
  }
  ASSERT_TRUE(client.send(many));
  for (int i = 0; i < 50; ++i) {
    const RawResponse response = client.read_response();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "POST text/plain body " + std::to_string(i));
    EXPECT_EQ(response.headers.at("Connection"), "keep-alive");
  }
}

TEST_F(HttpServerTest, ReadsChunkedBodiesAndOneByteAtATime) {
  serve();
  RawClient client(port());
  const std::string request =
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n "
      "world\r\n0\r\n\r\n";
  for (const char byte : request) ASSERT_TRUE(client.send(std::string_view(&byte, 1)));
  EXPECT_EQ(client.read_response().body, "POST  hello world");
}

TEST_F(HttpServerTest, AnswersExpectContinue) {
  serve();
  RawClient client(port());
  client.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 100);
  client.send("hi");
  EXPECT_EQ(client.read_response().body, "POST  hi");
}

TEST_F(HttpServerTest, RefusesBadRequestsAndCloses) {
  serve();
  const std::string long_header = "GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(5000, 'x') + "\r\n\r\n";
  const std::vector<std::pair<std::string, int>> cases = {
      {"nonsense\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET /" + std::string(3000, 'x') + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", 413},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400},
      {long_header, 431}};
  for (const auto& [bytes, status] : cases) {
    RawClient client(port());
    ASSERT_TRUE(client.send(bytes));
    const RawResponse response = client.read_response();
    EXPECT_EQ(response.status, status) << bytes.substr(0, 100);
    EXPECT_EQ(response.headers.at("Connection"), "close");
    EXPECT_EQ(response.headers.at("X-Content-Type-Options"), "nosniff");
    EXPECT_TRUE(client.closed_within(5000));
  }
  EXPECT_EQ(http_->active_exchanges(), 0);
}

TEST_F(HttpServerTest, RefusesAChunkedBodyThatGrowsTooLarge) {
  serve();
  RawClient client(port());
  client.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 30; ++i) {
    if (!client.send("1000\r\n" + std::string(4096, 'x') + "\r\n")) break;
  }
  EXPECT_EQ(client.read_response().status, 413);
}

TEST_F(HttpServerTest, HeadHasNoBodyAndOldHttpGetsNoChunks) {
  serve();
  RawClient head(port());
  head.get("/echo", "HEAD");
  const RawResponse response = head.read_response(true);
  EXPECT_EQ(response.headers.at("Content-Length"), "6");
  head.get("/echo");
  EXPECT_EQ(head.read_response().body, "GET  ");

  RawClient old(port());
  old.send("GET /three HTTP/1.0\r\n\r\n");
  const RawResponse stream = old.read_response();
  EXPECT_FALSE(stream.headers.contains("Transfer-Encoding"));
  EXPECT_EQ(stream.body, "data: one\n\ndata: two\n\ndata: three\n\n");
}

TEST_F(HttpServerTest, FramesEvents) {
  serve();
  RawClient client(port());
  client.get("/three");
  const RawResponse response = client.read_response();
  EXPECT_EQ(response.headers.at("Content-Type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(response.chunks, (std::vector<std::string>{"data: one\n\n", "data: two\n\n", "data: three\n\n"}));
  EXPECT_EQ(response.events(), (std::vector<std::string>{"one", "two", "three"}));
  client.get("/echo");
  EXPECT_EQ(client.read_response().body, "GET  ") << "the connection goes on after a stream";
}

// Proxies cut what is silent. Comments are no events, and come between events alone.
TEST_F(HttpServerTest, ASilentStreamSendsComments) {
  HttpOptions options = test_options();
  options.ping_interval = std::chrono::milliseconds(50);
  serve(options);
  for (const char* request : {"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n", "GET /silent HTTP/1.0\r\n\r\n"}) {
    RawClient client(port());
    client.send(request);
    const std::string body = client.read_response().body;
    ASSERT_TRUE(body.ends_with("data: at last\n\n")) << body;
    const std::string before = body.substr(0, body.size() - std::string("data: at last\n\n").size());
    size_t pings = 0;
    for (size_t at = 0; at < before.size(); at += std::string(": ping\n\n").size()) {
      ASSERT_EQ(before.substr(at, std::string(": ping\n\n").size()), ": ping\n\n");
      ++pings;
    }
    EXPECT_GE(pings, 1U);
  }
  RawClient busy(port());
  busy.get("/drip");
  EXPECT_FALSE(busy.closed_within(0));
  EXPECT_TRUE(busy.read_until("data: x"));
}

TEST_F(HttpServerTest, WithoutAnIntervalThereAreNoComments) {
  HttpOptions options = test_options();
  options.ping_interval = std::chrono::milliseconds(0);
  serve(options);
  RawClient client(port());
  client.get("/silent");
  EXPECT_EQ(client.read_response().body, "data: at last\n\n");
}

TEST_F(HttpServerTest, EveryAnswerHasADateAndTheRequestsId) {
  serve();
  const auto ids = [this](const std::string& request) {
    RawClient client(port());
    client.send(request);
    const RawResponse response = client.read_response();
    EXPECT_TRUE(std::regex_match(response.headers.at("Date"),
                                 std::regex("(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \\d\\d [A-Z][a-z][a-z] \\d{4} "
                                            "\\d\\d:\\d\\d:\\d\\d GMT")))
        << response.headers.at("Date");
    return response.headers.at("X-Request-Id");
  };
  const std::string host = " HTTP/1.1\r\nHost: x\r\n";
  for (const char* path : {"/echo", "/three", "/nothing", "/secret"}) {
    EXPECT_EQ(ids(std::string("GET ") + path + host + "X-Request-ID: trace-7/a\r\n\r\n"), "trace-7/a")
        << path;
    EXPECT_FALSE(ids(std::string("GET ") + path + host + "\r\n").empty()) << path;
  }
  EXPECT_NE(ids("GET /echo" + host + "\r\n"), ids("GET /echo" + host + "\r\n"));
  EXPECT_FALSE(ids("nonsense\r\n\r\n").empty());
  for (const std::string& bad :
       {std::string("two words"), std::string(201, 'x'), std::string("caf\xC3\xA9")}) {
    const std::string told = ids("GET /echo" + host + "X-Request-Id: " + bad + "\r\n\r\n");
    EXPECT_NE(told, bad);
    EXPECT_FALSE(told.empty());
  }
}

TEST_F(HttpServerTest, CompressedBodiesAreRefused) {
  serve();
  const auto status = [this](const std::string& coding) {
    RawClient client(port());
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\n" + coding + "Content-Length: 2\r\n\r\nhi");
    return client.read_response().status;
  };
  for (const char* coding : {"gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"}) {
    EXPECT_EQ(status(std::string("Content-Encoding: ") + coding + "\r\n"), 415) << coding;
  }
  EXPECT_EQ(status("Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"), 415);
  EXPECT_EQ(status("Content-Encoding: Identity\r\n"), 200);
  EXPECT_EQ(status(""), 200);
}

class CorsTest : public HttpServerTest {
 protected:
  void serve_to(std::vector<std::string> origins) {
    HttpOptions options = test_options();
    options.cors_origins = std::move(origins);
    serve(options);
  }
  RawResponse ask(const std::string& line, const std::string& headers) const {
    RawClient client(port());
    client.send(line + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n");
    return client.read_response();
  }
  static std::string value(const RawResponse& response, const char* name) {
    const auto found = response.headers.find(name);
    return found == response.headers.end() ? "none" : found->second;
  }
};

TEST_F(CorsTest, NoPageIsLetInByDefault) {
  serve();
  const RawResponse response = ask("GET /echo", "Origin: https://a.example\r\n");
  EXPECT_EQ(value(response, "Access-Control-Allow-Origin"), "none");
  EXPECT_EQ(value(response, "Vary"), "none");
}

TEST_F(CorsTest, PagesOfTheOriginsAreLetIn) {
  serve_to({"https://a.example", "http://localhost:3000"});
  for (const char* origin : {"https://a.example", "http://localhost:3000"}) {
    // Refusals, too: a page is to read why.
    for (const char* path : {"GET /echo", "GET /three", "GET /nothing", "GET /secret"}) {
      const RawResponse response = ask(path, fmt::format("Origin: {}\r\n", origin));
      EXPECT_EQ(value(response, "Access-Control-Allow-Origin"), origin) << path;
      EXPECT_EQ(value(response, "Vary"), "Origin");
    }
  }
  for (const char* origin : {"https://b.example", "https://a.example:444", "http://a.example", "null"}) {
    const RawResponse response = ask("GET /echo", fmt::format("Origin: {}\r\n", origin));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(value(response, "Access-Control-Allow-Origin"), "none") << origin;
    EXPECT_EQ(value(response, "Vary"), "Origin");
  }
}

TEST_F(CorsTest, ThePreflightNeedsNoKey) {
  serve_to({"https://a.example"});
  const std::string question =
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, "
      "content-type\r\n";
  for (const char* path : {"OPTIONS /secret", "OPTIONS /echo", "OPTIONS /not/there"}) {
    const RawResponse response = ask(path, "Origin: https://a.example\r\n" + question);
    EXPECT_EQ(response.status, 204) << path;
    EXPECT_EQ(value(response, "Access-Control-Allow-Origin"), "https://a.example");
    EXPECT_NE(value(response, "Access-Control-Allow-Methods").find("POST"), std::string::npos);
    EXPECT_EQ(value(response, "Access-Control-Allow-Headers"), "authorization, content-type");
  }
  const RawResponse refused = ask("OPTIONS /secret", "Origin: https://b.example\r\n" + question);
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(value(refused, "Access-Control-Allow-Methods"), "none");
  EXPECT_EQ(ask("OPTIONS /secret", "Origin: https://a.example\r\n").status, 401) << "no preflight";
}

TEST_F(CorsTest, TheStarLetsAllIn) {
  serve_to({"*"});
  for (const char* origin : {"https://a.example", "null"}) {
    const RawResponse response = ask("GET /echo", fmt::format("Origin: {}\r\n", origin));
    EXPECT_EQ(value(response, "Access-Control-Allow-Origin"), "*");
  }
  EXPECT_EQ(value(ask("GET /echo", ""), "Access-Control-Allow-Origin"), "none");
}

TEST(CorsOrigins, AreTold) {
  for (const char* origin : {"*", "null", "http://localhost:3000", "https://a.example", "app://obsidian.md",
                             "chrome-extension://abc", "http://[::1]:80"}) {
    EXPECT_TRUE(is_cors_origin(origin)) << origin;
  }
  for (const char* text : {"", "a.example", "https://", "://x", "https://a.example/",
                           "https://a.example/path", "https://a b", "models/tales-moe", "https://x@y"}) {
    EXPECT_FALSE(is_cors_origin(text)) << text;
  }
}

TEST(HttpDate, IsInTheFormOfHttp) {
  using std::chrono::system_clock;
  EXPECT_EQ(http_date(system_clock::from_time_t(784'111'777)), "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_EQ(http_date(system_clock::from_time_t(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
  EXPECT_EQ(http_date(system_clock::from_time_t(1'709'164'799)), "Wed, 28 Feb 2024 23:59:59 GMT");
  EXPECT_EQ(http_date(system_clock::from_time_t(1'709'164'800)), "Thu, 29 Feb 2024 00:00:00 GMT");
}

TEST_F(HttpServerTest, NoticesClientsThatGoAway) {
  serve();
  for (const bool reset : {false, true}) {
    for (const char* path : {"/hold", "/drip"}) {
      gone_ = 0;
      RawClient client(port());
      client.get(path);
      ASSERT_TRUE(eventually([this] { return http_->active_exchanges() == 1; }));
      reset ? client.reset() : client.close();
      EXPECT_TRUE(eventually([this] { return gone_ == 1; })) << path << " reset " << reset;
      EXPECT_TRUE(eventually([this] { return http_->active_exchanges() == 0; }));
    }
  }
}

TEST_F(HttpServerTest, CutsOffAClientThatDoesNotReadItsStream) {
  serve();
  RawClient client(port(), 4096);
  client.get("/stream");
  EXPECT_TRUE(eventually([this] { return gone_ == 1; }));
  EXPECT_EQ(http_->active_exchanges(), 0);
}

// It reads all the time, so there is progress all the time.
TEST_F(HttpServerTest, CutsOffAClientThatReadsAByteAtATime) {
  HttpOptions options = test_options();
  options.write_timeout = std::chrono::milliseconds(500);
  options.max_write_queue_bytes = 64U << 20;  // it is not the amount that matters here
  pump_limit_ = 2000;
  serve(options);
  RawClient client(port(), 4096);
  client.get("/stream");
  EXPECT_TRUE(eventually([&] {
    client.read_some(1);
    return gone_ == 1;
  }));
  EXPECT_EQ(http_->active_exchanges(), 0);
}

TEST_F(HttpServerTest, AsksForAdmissionBeforeItReadsTheBody) {
  serve();
  RawClient client(port());
  client.send("POST /secret HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_EQ(client.read_response().body, "POST  hi");
  EXPECT_EQ(seen_keys_, 0U) << "handlers do not get to see keys";
  client.send("GET /secret HTTP/1.1\r\nHost: x\r\n\r\n");
  const RawResponse refused = client.read_response();
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.headers.at("WWW-Authenticate"), "Bearer");
  EXPECT_EQ(refused.headers.at("Connection"), "keep-alive") << "it had no body";
  client.send(
      "POST /secret HTTP/1.1\r\nHost: x\r\nX-Api-Key: other\r\nExpect: 100-continue\r\n"
      "Content-Length: 90000\r\n\r\n");
  const RawResponse unread = client.read_response();
  EXPECT_EQ(unread.status, 401);
  EXPECT_EQ(unread.headers.at("Connection"), "close");
  EXPECT_TRUE(client.closed_within(5000));
}

TEST_F(HttpServerTest, BoundsWhatAllUnreadRequestsHold) {
  HttpOptions options = test_options();
  options.max_buffered_bytes = 150'000;
  serve(options);
  RawClient first(port());
  first.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + std::string(99'999, 'x'));
  RawClient second(port());
  EXPECT_TRUE(eventually([&] {
    RawClient other(port());
    other.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 60000\r\n\r\n");
    return other.read_response().status == 503;
  })) << "refused by what it announces";
  second.send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "fde8\r\n" +
      std::string(65'000, 'x'));
  const RawResponse refused = second.read_response();
  EXPECT_EQ(refused.status, 503) << "refused while it grows";
  EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  RawClient small(port());
  small.post("/echo", "hi");
  EXPECT_EQ(small.read_response().status, 200);
  first.send("x");
  EXPECT_EQ(first.read_response().status, 200);
  RawClient third(port());
  third.post("/echo", std::string(100'000, 'x'));
  EXPECT_EQ(third.read_response().status, 200) << "the memory is free again";
}

TEST_F(HttpServerTest, CutsOffAClientThatPipelinesWithoutEnd) {
  serve();
  RawClient client(port());
  client.get("/hold");
  for (int i = 0; i < 100; ++i) {
    if (!client.send(std::string(4096, 'x'))) break;
  }
  EXPECT_TRUE(eventually([this] { return gone_ == 1; }));
}

TEST_F(HttpServerTest, EnforcesDeadlinesOfHeaderBodyAndIdleness) {
  HttpOptions options = test_options();
  options.header_timeout = options.body_timeout = options.idle_timeout = std::chrono::milliseconds(150);
  serve(options);
  RawClient idle(port());
  RawClient header(port());
  header.send("GET /echo HTT");
  // Deadlines are absolute: bytes that keep coming do not move them.
  RawClient slow_header(port());
  RawClient slow_body(port());
  slow_body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
  for (int i = 0; i < 20; ++i) {
    slow_header.send("G");
    slow_body.send("x");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(slow_header.read_response().status, 408);
  EXPECT_EQ(slow_body.read_response().status, 408);
  RawClient body(port());
  body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(header.read_response().status, 408);
  EXPECT_EQ(body.read_response().status, 408);
  EXPECT_TRUE(idle.closed_within(5000));
  RawClient hold(port());
  hold.get("/hold");
  EXPECT_FALSE(hold.closed_within(500)) << "a request that is being handled has no deadline";
}

TEST_F(HttpServerTest, TurnsConnectionsAwayBeyondTheLimit) {
  HttpOptions options = test_options();
  options.max_connections = 2;
  serve(options);
  RawClient first(port());
  RawClient second(port());
  for (RawClient* client : {&first, &second}) {
    client->get("/echo");
    EXPECT_EQ(client->read_response().status, 200);
  }
  for (const char* path : {"/echo", ""}) {  // also one that says nothing
    RawClient third(port());
    if (*path != '\0') third.get(path);
    const RawResponse refused = third.read_response();
    EXPECT_EQ(refused.status, 503);
    EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  }
  for (const char* path : {"/health", "/ping", "/metrics"}) {
    RawClient probe(port());
    probe.get(path);
    const RawResponse answer = probe.read_response();
    EXPECT_EQ(answer.body, "none") << "the handler's, not a refusal";
    EXPECT_EQ(answer.headers.at("Connection"), "close");
  }
  first.close();
  EXPECT_TRUE(eventually([this] {
    RawClient next(port());
    next.get("/echo");
    return next.read_response().status == 200;
  }));
}

TEST_F(HttpServerTest, ErrorsNameTheFlag) {
  serve();
  const auto message = [](const HttpOptions& options) -> std::string {
    HttpServer server(options, nullptr, nullptr);
    try {
      server.listen();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  HttpOptions options = test_options();
  options.port = port();
  EXPECT_NE(message(options).find("--port"), std::string::npos) << message(options);
  options.port = 70'000;
  EXPECT_NE(message(options).find("--port"), std::string::npos) << message(options);
  options.port = 0;
  options.host = "no.such.host.invalid";
  EXPECT_NE(message(options).find("--host"), std::string::npos) << message(options);
  options.host = "192.0.2.1";
  EXPECT_NE(message(options).find("--host"), std::string::npos) << message(options);
  options = test_options();
  options.max_buffered_bytes = 1;
  EXPECT_NE(message(options).find("--max-buffered-bytes"), std::string::npos) << message(options);
}

TEST(SseFrame, IsOneDataLine) {
  EXPECT_EQ(sse_frame("{\"a\":1}", ""), "data: {\"a\":1}\n\n");
  EXPECT_EQ(sse_frame("{}", "ping"), "event: ping\ndata: {}\n\n");
}

}  // namespace
}  // namespace chorale::server
