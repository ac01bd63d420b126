#include "server/http/http_server.h"

#include <chrono>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "server/http/framing.h"
#include "unit/server/http/http_server_fixture.h"

namespace chorale::server {
namespace {

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

TEST(HttpDate, IsInTheFormOfHttp) {
  using std::chrono::system_clock;
  EXPECT_EQ(http_date(system_clock::from_time_t(784'111'777)), "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_EQ(http_date(system_clock::from_time_t(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
  EXPECT_EQ(http_date(system_clock::from_time_t(1'709'164'799)), "Wed, 28 Feb 2024 23:59:59 GMT");
  EXPECT_EQ(http_date(system_clock::from_time_t(1'709'164'800)), "Thu, 29 Feb 2024 00:00:00 GMT");
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
