#include "tools/bench_serve/url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace chorale::bench_serve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ParseUrl, TakesItApart) {
  EXPECT_EQ(parse_url("http://127.0.0.1:30000", "f"), (Url{"127.0.0.1", "30000", ""}));
  EXPECT_EQ(parse_url("localhost:8000", "f"), (Url{"localhost", "8000", ""}));
  EXPECT_EQ(parse_url("http://host", "f"), (Url{"host", "80", ""}));
  EXPECT_EQ(parse_url("http://host:1/a/b//", "f"), (Url{"host", "1", "/a/b"}));
  EXPECT_EQ(parse_url("http://[::1]:65535/", "f"), (Url{"::1", "65535", ""}));
}

TEST(ParseUrl, LeavesTheVersionOfTheApiAway) {
  EXPECT_EQ(parse_url("http://host:1/v1", "f").prefix, "");
  EXPECT_EQ(parse_url("http://host:1/v1/", "f").prefix, "");
  EXPECT_EQ(parse_url("http://host:1/a/v1", "f").prefix, "/a");
}

TEST(ParseUrl, IsWrittenForPeopleAndForTheHeader) {
  EXPECT_EQ(parse_url("http://[::1]:2/a", "f").text(), "[::1]:2/a");
  EXPECT_EQ(parse_url("http://[::1]:2/a", "f").authority(), "[::1]:2");
  EXPECT_EQ(parse_url("http://host/a", "f").authority(), "host:80");
}

TEST(ParseUrl, RefusesWhatItDoesNotUnderstand) {
  for (const char* text : {"", "http://", "http://:80", "http://host:", "http://host:0", "http://host:65536",
                           "http://host:8x", "http://[::1", "http://[::1]x:1", "http://ho st:1",
                           "http://host:1/a?b", "http://host:1/\r\nx", "http://host:1 ", "host:-1"}) {
    try {
      parse_url(text, "--base-url");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("--base-url"), HasSubstr("http://127.0.0.1:30000"))) << text;
    }
  }
}

TEST(ParseUrl, SaysThatItSpeaksNoTls) {
  try {
    parse_url("https://host", "--base-url");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("only http is spoken"));
  }
}

}  // namespace
}  // namespace chorale::bench_serve
