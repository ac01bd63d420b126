// What clients may take of a server: time, memory and connections.
#include <chrono>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/server/http/http_server_fixture.h"

namespace chorale::server {
namespace {

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

}  // namespace
}  // namespace chorale::server
