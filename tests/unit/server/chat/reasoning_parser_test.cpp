#include "server/chat/reasoning_parser.h"

#include <string>

#include <gtest/gtest.h>

#include "unit/server/chat/pieces.h"

namespace chorale::server {
namespace {

struct Split {
  std::string reasoning;
  std::string content;
  bool operator==(const Split&) const = default;
};

void add(Split& split, const ReasoningParser::Result& result) {
  // Nothing of the reasoning comes once the content has begun.
  EXPECT_TRUE(result.reasoning.empty() || split.content.empty());
  split.reasoning += result.reasoning;
  split.content += result.content;
}

// The same for every way of cutting the text.
Split split(const std::string& text, ReasoningParser::Options options = {}) {
  Split first;
  bool has_first = false;
  for (const Pieces& pieces : ways_to_cut(text)) {
    ReasoningParser parser(options);
    Split one;
    for (const std::string& piece : pieces) add(one, parser.push(piece));
    add(one, parser.finish());
    if (!has_first) first = one;
    has_first = true;
    EXPECT_EQ(one, first) << text;
  }
  return first;
}

Split split_opened(const std::string& text) {
  return split(text, {.opened = true});
}

TEST(ReasoningParser, SplitsAtTheTags) {
  EXPECT_EQ(split("<think>\nWell.\n\nSo.\n</think>\n\nHello"), (Split{"Well.\n\nSo.", "Hello"}));
  EXPECT_EQ(split("<think>a</think>b"), (Split{"a", "b"}));
  EXPECT_EQ(split("\n <think>a</think>b"), (Split{"a", "b"}));
  EXPECT_EQ(split("<think>\n\n</think>\n\nHello"), (Split{"", "Hello"}));
  EXPECT_EQ(split("<think></think>"), (Split{"", ""}));
}

TEST(ReasoningParser, LeavesWhiteSpaceThatIsNoLineBreakAtATag) {
  EXPECT_EQ(split("<think>\n  a \n b\t\n\n</think>\n  c\n"), (Split{"  a \n b\t", "  c\n"}));
}

TEST(ReasoningParser, LeavesTextWithoutReasoningAsItIs) {
  for (const char* text : {"", "\n\n Hello\n", "Hello <think>a</think>", "<thin", "<thinking>a", "  <",
                           "a</think>b", "<<think>a</think>"}) {
    EXPECT_EQ(split(text), (Split{"", text}));
  }
}

TEST(ReasoningParser, BeginsInsideWhereThePromptHasOpenedTheTag) {
  EXPECT_EQ(split_opened("\nWell.\n</think>\n\nHello"), (Split{"Well.", "Hello"}));
  EXPECT_EQ(split_opened("Well.</think>"), (Split{"Well.", ""}));
  EXPECT_EQ(split_opened("</think>Hello"), (Split{"", "Hello"}));
  EXPECT_EQ(split_opened("<think>\nWell.</think>Hello"), (Split{"Well.", "Hello"}));
  EXPECT_EQ(split_opened("<thin</think>Hello"), (Split{"<thin", "Hello"}));
  EXPECT_EQ(split_opened("\n\n<thi"), (Split{"<thi", ""}));
}

TEST(ReasoningParser, GivesAllOfTextThatEndsInside) {
  EXPECT_EQ(split("<think>\nWell"), (Split{"Well", ""}));
  EXPECT_EQ(split("<think>Well.\n\n</thi"), (Split{"Well.\n\n</thi", ""}));
  EXPECT_EQ(split("<think>"), (Split{"", ""}));
}

TEST(ReasoningParser, TakesOnlyTheFirstEnd) {
  EXPECT_EQ(split("<think>a<think>b</thin</think>c</think>d"), (Split{"a<think>b</thin", "c</think>d"}));
  EXPECT_EQ(split("<think>a<</think>b"), (Split{"a<", "b"}));
  EXPECT_EQ(split("<think>a\n</\n</think>b"), (Split{"a\n</", "b"}));
}

TEST(ReasoningParser, VerbatimLeavesNothingOut) {
  const std::string reasoning = "\n<think>\n\nWell.\n\n</think>";
  EXPECT_EQ(split(reasoning + "\n\nHello", {.verbatim = true}), (Split{reasoning, "\n\nHello"}));
  EXPECT_EQ(split("\nWell.\n</think>\n", {.opened = true, .verbatim = true}),
            (Split{"\nWell.\n</think>", "\n"}));
  EXPECT_EQ(split("<think>\n\n", {.verbatim = true}), (Split{"<think>\n\n", ""}));
}

TEST(ReasoningParser, HoldsBackOnlyWhatMayBecomeATag) {
  ReasoningParser parser({});
  EXPECT_EQ(parser.push("<think>\nOne").reasoning, "One");
  EXPECT_EQ(parser.push("\n").reasoning, "");
  EXPECT_EQ(parser.push("two <").reasoning, "\ntwo ");
  EXPECT_EQ(parser.push("/b></").reasoning, "</b>");
  EXPECT_TRUE(parser.may_reason());
  EXPECT_EQ(parser.push("think>\n").reasoning, "");
  EXPECT_FALSE(parser.may_reason());
  EXPECT_EQ(parser.push("\nThree").content, "Three");
  EXPECT_EQ(parser.push("\n<think>").content, "\n<think>");
}

TEST(ReasoningParser, SeesHowAPromptEnds) {
  EXPECT_TRUE(opens_reasoning("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(closes_reasoning("<|im_start|>assistant\n<think>\n"));
  EXPECT_TRUE(closes_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_reasoning("<|im_start|>assistant\n"));
  EXPECT_FALSE(closes_reasoning(""));
}

}  // namespace
}  // namespace chorale::server
