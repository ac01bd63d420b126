#include "server/chat/tool_grammar.h"

#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "server/wire/bad_request.h"

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

std::optional<std::string> text_of(OutputConstraint::Kind kind, std::string text) {
  RequestedFormat format;
  format.constraint.kind = kind;
  format.constraint.text = std::move(text);
  format.param = "format";
  return text_rule(format);
}

TEST(ToolGrammar, JsonForm) {
  Json parameters = request(ToolRequest::Choice::required, true).tools[0].parameters;
  parameters["additionalProperties"] = false;
  parameters["x-guidance"] = {{"whitespace_flexible", true}, {"whitespace_pattern", " "}, {"lenient", true}};
  EXPECT_EQ(tool_grammar(request(ToolRequest::Choice::required, true), {&kJsonToolCalls}),
            R"(start: call ("\n" call)*
call_0: <tool_call> "\n{\"name\": \"weather\", \"arguments\": " call_0_arguments "}\n" </tool_call>
call_0_arguments: %json )" +
                to_text(parameters) + R"(
call_1: <tool_call> "\n{\"name\": \"now\", \"arguments\": " call_1_arguments "}\n" </tool_call>
call_1_arguments: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
call: call_0 | call_1
)");
}

TEST(ToolGrammar, XmlForm) {
  EXPECT_EQ(tool_grammar(request(ToolRequest::Choice::required, false), {&kXmlToolCalls}),
            R"(start: call
call_0_0: "<parameter=city>\n" call_0_0_value
call_0_0_value: value "\n"
value[suffix="</parameter>"]: /(?s:.*)/
call_0_1: "<parameter=days>\n" call_0_1_value
call_0_1_value_0: %json {"type":"integer","x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
call_0_1_value: call_0_1_value_0 "\n</parameter>\n"
call_0_2: "<parameter=say \"it\">\n" call_0_2_value
call_0_2_value_0: %json {"type":"number","x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
call_0_2_value: call_0_2_value_0 "\n</parameter>\n"
call_0: <tool_call> "\n<function=weather>\n" call_0_0 call_0_1 call_0_2? "</function>\n" </tool_call>
call_1: <tool_call> "\n<function=now>\n" "</function>\n" </tool_call>
call: call_0 | call_1
)");
}

TEST(ToolGrammar, StringsOfTheXmlFormAreAsTheSchemaSays) {
  ToolRequest one;
  one.choice = ToolRequest::Choice::required;
  one.parallel = false;
  one.tools = {
      {"f", Json::parse(
                R"({"properties":{"unit":{"enum":["C","F"]},"code":{"type":"string","pattern":"^[A-Z]{2}$"},
                   "maybe":{"anyOf":[{"const":"x"},{"type":"null"}]}},"required":["unit","code","maybe"]})")}};
  EXPECT_EQ(tool_grammar(one, {&kXmlToolCalls}), R"(start: call
call_0_0: "<parameter=unit>\n" call_0_0_value
call_0_0_value_text[suffix="\n</parameter>\n"]: "C" | "F"
call_0_0_value: call_0_0_value_text
call_0_1: "<parameter=code>\n" call_0_1_value
call_0_1_value_text[suffix="\n</parameter>\n"]: /(?:[A-Z]{2})/
call_0_1_value: call_0_1_value_text
call_0_2: "<parameter=maybe>\n" call_0_2_value
call_0_2_value_text[suffix="\n</parameter>\n"]: "x"
call_0_2_value_1: %json {"type":"null","x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
call_0_2_value: call_0_2_value_text | call_0_2_value_1 "\n</parameter>\n"
call_0: <tool_call> "\n<function=f>\n" call_0_0 call_0_1 call_0_2 "</function>\n" </tool_call>
call: call_0
)");
}

TEST(ToolGrammar, ACallOrJson) {
  const std::string grammar =
      tool_grammar(request(ToolRequest::Choice::automatic, true),
                   {.format = &kJsonToolCalls,
                    .reasoning = ReasoningStart::allowed,
                    .text = *text_of(OutputConstraint::Kind::lenient_json_schema, R"({"type":"object"})")});
  EXPECT_TRUE(grammar.starts_with(
      R"(text: %json {"type":"object","x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
start: (<think> thought)? (call ("\n" call)* | text)
)")) << grammar;
}

TEST(ToolGrammar, ACallOrAText) {
  using Kind = OutputConstraint::Kind;
  EXPECT_EQ(text_of(Kind::choice, R"(["yes","\"no\""])"), R"("yes" | "\"no\"")");
  EXPECT_EQ(text_of(Kind::regex, "[0-9]+"), "/(?:[0-9]+)/");
  EXPECT_EQ(text_of(Kind::regex, "^a|b/c\n\\/$"), R"(/(?:a|b\/c\n\/)/)");
  EXPECT_EQ(text_of(Kind::regex, R"(costs\$)"), R"(/(?:costs\$)/)");
  EXPECT_EQ(text_of(Kind::regex, R"(back\\$)"), R"(/(?:back\\)/)");
  EXPECT_EQ(text_of(Kind::ebnf, "root ::= \"a\""), std::nullopt);  // it says what may be called, too
  EXPECT_THROW(text_of(Kind::regex, "(?=a)b"), BadRequest);
  EXPECT_THROW(text_of(Kind::regex, "^$"), BadRequest);
}

TEST(ToolGrammar, OneToolAndReasoningBeforeIt) {
  const ToolRequest named = request(ToolRequest::Choice::named, false, "now");
  const std::string rest = R"(thought: /(?s:.*)/ </think> /\n{1,2}/?
call_0: <tool_call> "\n{\"name\": \"now\", \"arguments\": " call_0_arguments "}\n" </tool_call>
call_0_arguments: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
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
call_0_arguments: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true}}
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
