#include "server/chat/tool_call_format.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "server/chat/tool_call_parser.h"
#include "server/chat/tool_grammar.h"

namespace chorale::server {
namespace {

TEST(ToolCallFormat, IsTheOneThatTheTemplateWritesAbout) {
  EXPECT_EQ(&find_tool_call_format("answer with <tool_call>\n<function=example>\n"), &kXmlToolCalls);
  EXPECT_EQ(&find_tool_call_format("answer with <tool_call>\n{\"name\": ...}\n</tool_call>"),
            &kJsonToolCalls);
  EXPECT_EQ(&find_tool_call_format("there is a tool"), &kJsonToolCalls);
}

// A form that others are in front of is never found.
TEST(ToolCallFormat, EachIsFoundByItsOwnTags) {
  for (const ToolCallFormat* format : tool_call_formats()) {
    std::string text;
    for (const std::string_view tag : format->opening_tags) text += tag;
    EXPECT_EQ(&find_tool_call_format(text), format) << text;
  }
}

TEST(ToolCallFormat, WhatTheGrammarOpensTheParserReads) {
  ToolRequest request;
  request.choice = ToolRequest::Choice::required;
  request.tools = {{"now", nullptr}};
  for (const ToolCallFormat* format : tool_call_formats()) {
    const std::string grammar = tool_grammar(request, {format});
    EXPECT_TRUE(std::ranges::any_of(format->opening_tags, [&](std::string_view tag) {
      return grammar.find("call_0: " + std::string(tag)) != std::string::npos;
    })) << grammar;
    for (const std::string_view tag : format->opening_tags) {
      ToolCallParser parser(request.tools, {format});
      EXPECT_EQ(parser.push(tag).content, "");
      EXPECT_EQ(parser.finish().content, tag);
    }
  }
}

}  // namespace
}  // namespace chorale::server
