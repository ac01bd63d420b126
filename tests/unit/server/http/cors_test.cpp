#include "server/http/cors.h"

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/server/http/http_server_fixture.h"

namespace chorale::server {
namespace {

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

}  // namespace
}  // namespace chorale::server
