#include "server/http/request_parser.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

constexpr HttpLimits kLimits{.max_header_bytes = 1024, .max_target_bytes = 256, .max_body_bytes = 1000};

// "METHOD PATH BODY;" of each request, then the status of the error or "..." when the last one is not whole.
// `split` > 0: the bytes are given that many at a time.
std::string read_all(std::string_view bytes, size_t split = 0, const HttpLimits& limits = kLimits) {
  std::string out;
  HttpRequestParser parser(limits);
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, split == 0 ? bytes.size() : split);
    bytes.remove_prefix(part.size());
    while (!part.empty()) {
      part.remove_prefix(parser.put(part));
      EXPECT_LE(parser.held_bytes(),
                limits.max_header_bytes + (parser.has_header() ? limits.max_body_bytes : 0));
      if (parser.state() == HttpRequestParser::State::failed) return out + std::to_string(parser.status());
      if (parser.state() != HttpRequestParser::State::complete) continue;
      const HttpRequest request = parser.take();
      out += request.method + " " + request.path + " " + request.body + ";";
      parser = HttpRequestParser(limits);
    }
  }
  return parser.state() == HttpRequestParser::State::idle ? out : out + "...";
}

// The same however the bytes are split.
std::string read_split(std::string_view bytes, const HttpLimits& limits = kLimits) {
  const std::string whole = read_all(bytes, 0, limits);
  for (const size_t split : {1, 2, 3, 7, 64}) EXPECT_EQ(read_all(bytes, split, limits), whole) << bytes;
  return whole;
}

std::string post(std::string_view headers, std::string_view body = "") {
  return "POST /x HTTP/1.1\r\nHost: h\r\n" + std::string(headers) + "\r\n" + std::string(body);
}

HttpRequestParser parsed(std::string_view bytes) {
  HttpRequestParser parser(kLimits);
  while (!bytes.empty() && parser.state() != HttpRequestParser::State::complete &&
         parser.state() != HttpRequestParser::State::failed) {
    bytes.remove_prefix(parser.put(bytes));
  }
  return parser;
}

TEST(HttpRequestParser, ReadsPipelinedRequestsHoweverTheyAreSplit) {
  EXPECT_EQ(read_split("GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n"
                       "\r\n\r\nPOST /b HTTP/1.1\r\nhost:h\r\nContent-Length: 5\r\n\r\nhello\r\n"
                       "PUT /c HTTP/1.1\r\nHOST: \t h \t\r\nTransfer-Encoding: Chunked\r\n\r\n"
                       "5\r\nhello\r\n6;x=\"y z\"\r\n world\r\n0\r\nTrailer: t\r\n\r\n"
                       "GET http://h:80/d?e HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"
                       "GET HTTPS://h HTTP/1.1\r\nHost:\r\n\r\n"
                       "OPTIONS * HTTP/1.0\r\n\r\n"),
            "GET /a ;POST /b hello;PUT /c hello world;GET /d ;GET / ;OPTIONS * ;");
  EXPECT_EQ(read_split("GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HT"), "GET /a ;...");
  EXPECT_EQ(read_split("\r\n\r\n"), "");
}

TEST(HttpRequestParser, RefusesFramingThatCanBeReadInTwoWays) {
  for (const char* header : {"Content-Length: 5\r\nContent-Length: 5\r\n",
                             "Content-Length: 5\r\nContent-Length: 6\r\n",
                             "Content-Length: 5, 5\r\n",
                             "Content-Length: 5,\r\n",
                             "Content-Length:\r\n",
                             "Content-Length: +5\r\n",
                             "Content-Length: -5\r\n",
                             "Content-Length: 0x5\r\n",
                             "Content-Length: 5 5\r\n",
                             "Content-Length: 5;\r\n",
                             "Content-Length: 18446744073709551616\r\n",
                             "Content-Length: 18446744073709551621\r\n",
                             "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                             "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                             "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n",
                             "Transfer-Encoding : chunked\r\n",
                             "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                             "Transfer-Encoding:\r\n chunked\r\n",
                             "X: a\r\n b\r\n",
                             " X: a\r\n",
                             "X: a\n",
                             "X: a\rb\r\n",
                             "X: a\r\r\n",
                             "X\r\n",
                             ": a\r\n",
                             "X y: a\r\n",
                             "X\xc3\xa4: a\r\n",
                             "(X): a\r\n",
                             "X: a\x01\r\n",
                             "X: a\x7f\r\n",
                             "Connection: ,;\r\n"}) {
    EXPECT_EQ(read_split(post(header, "5\r\nhello\r\n0\r\n\r\n")), "400") << header;
  }
  EXPECT_EQ(read_split(post(std::string("X: a\0b\r\n", 8))), "400");
  EXPECT_EQ(read_split("POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400");
  for (const char* encoding : {"gzip", "gzip, chunked", "chunked, gzip", "identity", "xchunked",
                               "chunked;q=1", "\"chunked\"", "", "gzip\r\nTransfer-Encoding: chunked"}) {
    EXPECT_EQ(read_split(post("Transfer-Encoding: " + std::string(encoding) + "\r\n", "0\r\n\r\n")), "501")
        << encoding;
  }
}

TEST(HttpRequestParser, RefusesChunksThatAreNotByTheBook) {
  const auto body = [](std::string_view chunks) {
    return read_split(post("Transfer-Encoding: chunked\r\n", chunks));
  };
  for (const char* chunks : {"-1\r\n",
                             "+5\r\nhello\r\n",
                             "0x5\r\nhello\r\n",
                             " 5\r\nhello\r\n",
                             "5 \r\nhello\r\n",
                             "\r\n",
                             ";x\r\n",
                             "g\r\n",
                             "10000000000000000\r\n",
                             "00000000000000005\r\nhello\r\n",
                             "5\nhello\r\n0\r\n\r\n",
                             "5\r\nhello\n0\r\n\r\n",
                             "5\r\nhello0\r\n\r\n",
                             "5\r\nhello!\r\n0\r\n\r\n",
                             "5;x\nhello\r\n0\r\n\r\n",
                             "5;x=\"\r\"\r\nhello\r\n",
                             "0\r\n\n",
                             "0\r\nX: a\n\r\n",
                             "0\r\nX\r\n\r\n",
                             "0\r\n X: a\r\n\r\n",
                             "0\r\n\rX"}) {
    EXPECT_EQ(body(chunks), "400") << chunks;
  }
  EXPECT_EQ(body("0000000000000005\r\nhello\r\n000\r\n\r\n"), "POST /x hello;");
  EXPECT_EQ(body("ffffffffffffffff\r\n"), "413");
  EXPECT_EQ(body("3e9\r\n"), "413");
  EXPECT_EQ(body("3e8\r\n" + std::string(1000, 'x') + "\r\n1\r\n"), "413");
  EXPECT_EQ(body("3e8\r\n" + std::string(1000, 'x') + "\r\n0\r\n\r\n"),
            "POST /x " + std::string(1000, 'x') + ";");
  EXPECT_EQ(body("1;" + std::string(2000, 'x')), "431");
  EXPECT_EQ(body("0\r\nX: " + std::string(2000, 'x')), "431");
}

TEST(HttpRequestParser, TakesNothingFromTrailers) {
  const HttpRequestParser parser = parsed(
      post("Transfer-Encoding: chunked\r\n",
           "0\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nHost: b\r\nContent-Type: text/plain\r\n"
           "Authorization: Bearer key\r\nConnection: close\r\n\r\n"));
  ASSERT_EQ(parser.state(), HttpRequestParser::State::complete);
  EXPECT_EQ(parser.request().content_type, "");
  EXPECT_TRUE(parser.request().keys.empty());
  EXPECT_TRUE(parser.keep_alive());
}

TEST(HttpRequestParser, EnforcesTheLimits) {
  const std::string fill = "GET / HTTP/1.1\r\nHost: h\r\nX: \r\n\r\n";
  const auto get = [&](size_t size) {
    return "GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(size - fill.size(), 'x') + "\r\n\r\n";
  };
  EXPECT_EQ(read_split(get(1024)), "GET / ;");
  EXPECT_EQ(read_split(get(1025)), "431");
  std::string returns(512, '\r');
  returns[1] = '\n';
  EXPECT_EQ(read_split(returns), "400");
  std::string breaks;
  for (int i = 0; i < 600; ++i) breaks += "\r\n";
  EXPECT_EQ(read_split(breaks), "431");
  EXPECT_EQ(read_split("GET /" + std::string(255, 'x') + " HTTP/1.1\r\nHost: h\r\n\r\n"),
            "GET /" + std::string(255, 'x') + " ;");
  EXPECT_EQ(read_split("GET /" + std::string(256, 'x') + " HTTP/1.1\r\nHost: h\r\n\r\n"), "414");
  const HttpLimits small{.max_header_bytes = 80, .max_target_bytes = 256, .max_body_bytes = 20};
  EXPECT_EQ(read_split("GET /" + std::string(100, 'x'), small), "414");
  EXPECT_EQ(read_split(post("Content-Length: 20\r\n", "01234567890123456789"), small),
            "POST /x 01234567890123456789;");
  EXPECT_EQ(read_split(post("Content-Length: 21\r\n"), small), "413") << "before any byte of it";
  EXPECT_EQ(read_split(post("Content-Length: 18446744073709551615\r\n"), small), "413");
}

TEST(HttpRequestParser, RefusesWhatIsNotHttp) {
  for (const std::string& bytes : std::vector<std::string>{
           "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
           "GET / HTTP/1.2\r\n",
           "GET / HTTP/3.0\r\n",
           "GET / http/1.1\r\n",
           "GET / HTTP/1.1 \r\n",
           "GET /\r\n",
           "GET  / HTTP/1.1\r\n",
           "GET /  HTTP/1.1\r\n",
           "GET\t/ HTTP/1.1\r\n",
           "GET / HTTP/1.1\n",
           "\nGET / HTTP/1.1\r\n",
           "\rGET / HTTP/1.1\r\n",
           " GET / HTTP/1.1\r\n",
           "G(T / HTTP/1.1\r\n",
           "GET /\xc3\xa4 HTTP/1.1\r\n",
           "\x16\x03\x01\x02",
           std::string(33, 'A'),
           "GET / HTTP/1.1\r\n\r\n",
           "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
           "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
           "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
           "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
           "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
           "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
           "GET ftp://h/ HTTP/1.1\r\nHost: a\r\n\r\n",
           "CONNECT h:80 HTTP/1.1\r\nHost: a\r\n\r\n",
           "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"}) {
    EXPECT_EQ(read_split(bytes), "400") << bytes;
  }
}

TEST(HttpRequestParser, StopsAfterTheHeaderAndTellsWhatItSays) {
  const std::string bytes =
      "POST /x HTTP/1.1\r\nHost: h\r\nContent-Type: Text/Plain ; charset=x\r\nExpect: 100-Continue\r\n"
      "Authorization: bearer  one\r\nX-API-Key: two\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
  HttpRequestParser parser(kLimits);
  EXPECT_EQ(parser.put(bytes), bytes.size() - 2);
  EXPECT_EQ(parser.state(), HttpRequestParser::State::body) << parser.message();
  ASSERT_TRUE(parser.has_header());
  EXPECT_EQ(parser.request().content_type, "text/plain");
  EXPECT_EQ(parser.request().keys, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(parser.announced_bytes(), 2U);
  EXPECT_TRUE(parser.expects_continue());
  EXPECT_TRUE(parser.is_http_1_1());
  EXPECT_FALSE(parser.keep_alive());
  EXPECT_EQ(parser.put("hi"), 2U);
  EXPECT_EQ(parser.state(), HttpRequestParser::State::complete);
  EXPECT_EQ(parser.take().body, "hi");

  EXPECT_TRUE(parsed(post("Authorization: Basic abc\r\n")).request().keys.empty());
  EXPECT_TRUE(parsed(post("Authorization: Bearer\r\n")).request().keys.empty());
  EXPECT_FALSE(parsed("GET / HTTP/1.0\r\n\r\n").keep_alive());
  EXPECT_TRUE(parsed("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive());
  EXPECT_FALSE(parsed("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue());
}

TEST(HttpRequestParser, HoldsWhatHasArrivedAndNotWhatIsAnnounced) {
  HttpRequestParser parser({.max_body_bytes = 8U << 20});
  parser.put(post("Content-Length: 8388608\r\n"));
  EXPECT_LT(parser.held_bytes(), 100U);
  parser.put("x");
  EXPECT_LE(parser.held_bytes(), 4096U);
  const std::string piece(100'000, 'x');
  for (int i = 0; i < 83; ++i) parser.put(piece);
  EXPECT_LE(parser.held_bytes(), 8U << 20);
}

}  // namespace
}  // namespace chorale::server
