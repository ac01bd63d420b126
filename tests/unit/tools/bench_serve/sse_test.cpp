#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "tools/bench_serve/sse_parser.h"

namespace chorale::bench_serve {
namespace {

using Events = std::vector<std::string>;

Events parse(const std::vector<std::string>& pieces) {
  SseParser parser;
  Events events;
  for (const std::string& piece : pieces)
    EXPECT_TRUE(parser.push(piece, [&](std::string_view data) { events.emplace_back(data); }));
  return events;
}

const std::string kStream =
    "\n: a comment\n\ndata: one\n\n"
    "event: named\ndata:two\nid: 7\n\n"
    "data: first\r\ndata: second\r\ndata\r\n\r\n"
    "data:  spaced \r\rdatax: no\n\n"
    "retry: 5\n\ndata:\n\ndata: [DONE]\n\n";
const Events kEvents = {"one", "two", "first\nsecond\n", " spaced ", "", "[DONE]"};

TEST(SseParser, ReadsEvents) {
  EXPECT_EQ(parse({kStream}), kEvents);
}

TEST(SseParser, DoesNotCareWhereTheBytesAreCut) {
  for (size_t cut = 0; cut <= kStream.size(); ++cut)
    EXPECT_EQ(parse({kStream.substr(0, cut), kStream.substr(cut)}), kEvents) << cut;
  std::vector<std::string> bytes;
  for (const char c : kStream) bytes.emplace_back(1, c);
  EXPECT_EQ(parse(bytes), kEvents);
}

TEST(SseParser, DoesNotCareAboutManyRandomCuts) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::vector<std::string> pieces;
    uint64_t draw = 0;
    for (size_t from = 0; from < kStream.size();) {
      const size_t size = static_cast<size_t>(random_uniform(seed, 0, draw++) * 9);
      pieces.push_back(kStream.substr(from, size));
      from += size;
    }
    EXPECT_EQ(parse(pieces), kEvents) << seed;
  }
}

TEST(SseParser, KeepsAnEventThatHasNotEnded) {
  EXPECT_EQ(parse({"data: x\n"}), Events{});
  EXPECT_EQ(parse({"data: x\n", "\n"}), Events{"x"});
}

TEST(SseParser, TellsAnEventAsSoonAsItEnds) {
  EXPECT_EQ(parse({"data: x\r\n\r"}), Events{"x"});
  EXPECT_EQ(parse({"data: x\r\n\r", "\ndata: y\n\n"}), (Events{"x", "y"}));
}

TEST(SseParser, StopsAtAnEventThatIsTooLong) {
  for (const std::string& text :
       {std::string(40, 'x'), "data: " + std::string(10, 'x') + "\ndata: " + std::string(15, 'y')}) {
    SseParser parser(20);
    int events = 0;
    const auto count = [&](std::string_view) { ++events; };
    EXPECT_TRUE(parser.push("data: short\n\n", count));
    EXPECT_FALSE(parser.push(text + "\n\n", count));
    EXPECT_FALSE(parser.push("data: short\n\n", count));
    EXPECT_EQ(events, 1);
  }
}

}  // namespace
}  // namespace chorale::bench_serve
