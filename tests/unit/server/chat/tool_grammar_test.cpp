#include "server/chat/tool_grammar.h"

#include <string>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

ToolRequest request(ToolRequest::Choice choice, bool parallel, const std::string& name = "") {
  ToolRequest request;
  request.choice = choice;
  request.parallel = parallel;
  request.name = name;
  request.tools = {{"weather", Json::parse(R"({"type":"object","properties":{"city":{"type":"string"},
                     "days":{"type":"integer"},"say \"it\"":{"$ref":"#/$defs/n"}},"required":["city","days"],
                     "$defs":{"n":{"type":"number"}}})")},
                   {"now", nullptr}};
  return request;
}

TEST(ToolGrammar, JsonForm) {
  Json parameters = request(ToolRequest::Choice::required, true).tools[0].parameters;
  parameters["x-guidance"] = {{"whitespace_flexible", true}, {"whitespace_pattern", " "}};
  EXPECT_EQ(tool_grammar(request(ToolRequest::Choice::required, true), {&kJsonToolCalls}),
            R"(start: call ("\n" call)*
call_0: <tool_call> "\n{\"name\": \"weather\", \"arguments\": " call_0_arguments "}\n" </tool_call>
call_0_arguments: %json )" +
                to_text(parameters) + R"(
call_1: <tool_call> "\n{\"name\": \"now\", \"arguments\": " call_1_arguments "}\n" </tool_call>
call_1_arguments: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" "}}
call: call_0 | call_1
)");
}

TEST(ToolGrammar, XmlForm) {
  EXPECT_EQ(tool_grammar(request(ToolRequest::Choice::required, false), {&kXmlToolCalls}),
            R"(start: call
call_0_0: "<parameter=city>\n" value "\n"
value[suffix="</parameter>"]: /(?s:.*)/
call_0_1: "<parameter=days>\n" call_0_1_value "\n</parameter>\n"
call_0_1_value: %json {"type":"integer","x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" "}}
call_0_2: "<parameter=say \"it\">\n" value "\n"
call_0: <tool_call> "\n<function=weather>\n" call_0_0 call_0_1 call_0_2? "</function>\n" </tool_call>
call_1: <tool_call> "\n<function=now>\n" "</function>\n" </tool_call>
call: call_0 | call_1
)");
}

TEST(ToolGrammar, OneToolAndReasoningBeforeIt) {
  const ToolRequest named = request(ToolRequest::Choice::named, false, "now");
  const std::string rest = R"(thought: /(?s:.*)/ </think> /\n{1,2}/?
call_0: <tool_call> "\n{\"name\": \"now\", \"arguments\": " call_0_arguments "}\n" </tool_call>
call_0_arguments: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" "}}
call: call_0
)";
  EXPECT_EQ(tool_grammar(named, {&kJsonToolCalls, ReasoningStart::allowed}),
            "start: (<think> thought)? call\n" + rest);
  EXPECT_EQ(tool_grammar(named, {&kJsonToolCalls, ReasoningStart::opened}), "start: thought call\n" + rest);
}

TEST(ToolGrammar, TagsThatAreNoTokens) {
  EXPECT_EQ(tool_grammar(request(ToolRequest::Choice::named, true, "now"),
                         {&kJsonToolCalls, ReasoningStart::allowed, false}),
            R"(start: ("<think>" thought)? call ("\n" call)*
thought: reasoning /\n{1,2}/?
reasoning[suffix="</think>"]: /(?s:.*)/
call_0: "<tool_call>" "\n{\"name\": \"now\", \"arguments\": " call_0_arguments "}\n" "</tool_call>"
call_0_arguments: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" "}}
call: call_0
)");
}

// Arguments are an object even where the schema says nothing.
TEST(ToolGrammar, AnEmptySchemaIsAnObject) {
  ToolRequest free;
  free.choice = ToolRequest::Choice::required;
  free.parallel = false;
  free.tools = {{"f", Json::object()}};
  EXPECT_NE(tool_grammar(free, {&kJsonToolCalls}).find("%json {\"type\":\"object\","), std::string::npos);
}

}  // namespace
}  // namespace chorale::server
