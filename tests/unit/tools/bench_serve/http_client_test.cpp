#include "tools/bench_serve/http_client.h"

#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace chorale::bench_serve {
namespace {

using boost::asio::ip::tcp;
using ::testing::HasSubstr;

constexpr Seconds kPatience{30};

// Takes one connection, sends the first part, waits until it is told that it has arrived, and sends the
// second.
class TwoPartServer {
 public:
  TwoPartServer(std::string first, std::string second)
      : acceptor_(io_, {boost::asio::ip::address_v4::loopback(), 0}), thread_([this, first, second] {
          tcp::socket socket = acceptor_.accept();
          boost::asio::read_until(socket, boost::asio::dynamic_buffer(request), "\r\n\r\n");
          boost::asio::write(socket, boost::asio::buffer(first));
          arrived.get_future().wait();
          boost::system::error_code ignored;
          boost::asio::write(socket, boost::asio::buffer(second), ignored);
        }) {}

  Url url() const { return {"127.0.0.1", std::to_string(acceptor_.local_endpoint().port()), "/prefix"}; }
  void join() { thread_.join(); }

  std::promise<void> arrived;
  std::string request;

 private:
  boost::asio::io_context io_;
  tcp::acceptor acceptor_;
  std::jthread thread_;
};

struct Body {
  const char* name;
  std::string first, second;
};

class HttpClientBody : public testing::TestWithParam<Body> {};

// Times of events are worth something only if a part of a body is told before the next has come.
TEST_P(HttpClientBody, IsToldAsItComes) {
  TwoPartServer server("HTTP/1.1 200 OK\r\n" + GetParam().first, GetParam().second);
  HttpClient client(server.url(), "key", kPatience);
  std::string body;
  bool released = false;
  HttpEnd end;
  const auto release = [&] {
    if (!std::exchange(released, true)) server.arrived.set_value();
  };
  client.send({.path = "/path",
               .on_body =
                   [&](const BodyPart& part) {
                     EXPECT_EQ(part.status, 200);
                     body += part.bytes;
                     if (body == "one") release();
                   },
               .on_end =
                   [&](const HttpEnd& e) {
                     end = e;
                     release();
                   }});
  client.run();
  server.join();
  EXPECT_EQ(end.error, "");
  EXPECT_EQ(end.status, 200);
  EXPECT_EQ(body, "onetwo");
  EXPECT_THAT(server.request, HasSubstr("GET /prefix/path HTTP/1.1\r\n"));
  EXPECT_THAT(server.request, HasSubstr("Authorization: Bearer key\r\n"));
}

INSTANTIATE_TEST_SUITE_P(All, HttpClientBody,
                         testing::Values(Body{"chunked", "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
                                              "3\r\ntwo\r\n0\r\n\r\n"},
                                         Body{"a_cut_chunk", "Transfer-Encoding: chunked\r\n\r\n6\r\none",
                                              "two\r\n0\r\n\r\n"},
                                         Body{"a_length", "Content-Length: 6\r\n\r\none", "two"},
                                         Body{"until_the_end", "\r\none", "two"}),
                         [](const auto& body) { return std::string(body.param.name); });

TEST(HttpClient, RunsFunctionsInTheOrderOfTheirTimes) {
  HttpClient client({"127.0.0.1", "1", ""}, "", kPatience);
  std::vector<int> order;
  const auto now = Clock::now();
  client.at(now + std::chrono::milliseconds(20), [&] { order.push_back(2); });
  client.at(now, [&] {
    order.push_back(1);
    client.at(now + std::chrono::milliseconds(40), [&] { order.push_back(3); });
  });
  client.run();
  EXPECT_GE(Clock::now() - now, std::chrono::milliseconds(40));
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST(HttpClient, TellsWhatKeepsItFromAnAnswer) {
  boost::asio::io_context io;
  const tcp::acceptor bound(io, {boost::asio::ip::address_v4::loopback(), 0});  // accepts, and never answers
  HttpClient silent({"127.0.0.1", std::to_string(bound.local_endpoint().port()), ""}, "", Seconds(0.05));
  const HttpAnswer late = ask(silent, "GET", "/");
  EXPECT_EQ(late.end.status, 0);
  EXPECT_EQ(late.end.error, "the time limit was reached");

  EXPECT_THROW(HttpClient({"host.invalid", "80", ""}, "", kPatience), Error);
}

}  // namespace
}  // namespace chorale::bench_serve
