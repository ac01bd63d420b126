#include "server/chat/tool_call_parser.h"

#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "server/wire/json_body.h"
#include "unit/server/chat/pieces.h"

namespace chorale::server {
namespace {

struct Call {
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};

struct Parsed {
  std::string content;
  std::vector<Call> calls;
  bool cut_off = false;
  bool operator==(const Parsed&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Parsed& parsed) {
  out << "content " << quote(parsed.content) << (parsed.cut_off ? ", cut off" : "");
  for (const Call& call : parsed.calls) out << ", call " << call.name << " " << call.arguments;
  return out;
}

const std::vector<Tool>& tools() {
  static const std::vector<Tool> tools = {{"weather", Json::parse(R"({"type":"object","properties":{
         "city":{"type":"string"},"days":{"type":"integer"},"scale":{"type":"number"},"exact":{"type":"boolean"},
         "place":{"type":"object"},"hours":{"type":"array"},"nothing":{"type":"null"},
         "maybe":{"type":["string","null"]},"either":{"anyOf":[{"type":"string"},{"type":"integer"}]},
         "color":{"enum":["red","1"]},"place2":{"$ref":"#/$defs/place"},"loop":{"$ref":"#/$defs/loop"},
         "free":{}},"$defs":{"place":{"type":"object"},"loop":{"$ref":"#/$defs/loop"}}})")},
                                          {"now", nullptr}};
  return tools;
}

// Puts the deltas together, and looks at their order.
void add(Parsed& parsed, const ToolCallParser::Result& result) {
  parsed.content += result.content;
  for (const ToolCallDelta& delta : result.calls) {
    if (delta.name) {
      EXPECT_EQ(delta.index, std::ssize(parsed.calls));
      EXPECT_EQ(delta.arguments, "");
      parsed.calls.push_back({*delta.name, ""});
    } else {
      EXPECT_EQ(delta.index + 1, std::ssize(parsed.calls));
      EXPECT_NE(delta.arguments, "");
      parsed.calls.back().arguments += delta.arguments;
    }
  }
}

Parsed parse_pieces(const Pieces& pieces, ToolCallParser::Options options) {
  ToolCallParser parser(tools(), options);
  Parsed parsed;
  for (const std::string& piece : pieces) add(parsed, parser.push(piece));
  add(parsed, parser.finish());
  parsed.cut_off = parser.cut_off();
  EXPECT_EQ(parser.num_calls(), std::ssize(parsed.calls));
  return parsed;
}

// The same for every way of cutting the text.
Parsed parse(const std::string& text, ToolCallParser::Options options) {
  const Parsed whole = parse_pieces({text}, options);
  for (const Pieces& pieces : ways_to_cut(text)) EXPECT_EQ(parse_pieces(pieces, options), whole) << text;
  return whole;
}
Parsed json(const std::string& text, bool parallel = true) {
  return parse(text, {&kJsonToolCalls, parallel});
}
Parsed xml(const std::string& text, bool parallel = true) {
  return parse(text, {&kXmlToolCalls, parallel});
}

constexpr const char* kRome = R"({"name": "weather", "arguments": {"city": "Rome", "days": 2}})";
constexpr const char* kRomeArguments = R"({"city": "Rome", "days": 2})";

std::string tagged(const std::string& inner) {
  return "<tool_call>\n" + inner + "\n</tool_call>";
}

TEST(ToolCallParser, ReadsOneCall) {
  EXPECT_EQ(json(tagged(kRome)), (Parsed{"", {{"weather", kRomeArguments}}}));
  EXPECT_EQ(json("<tool_call>" + std::string(kRome) + "</tool_call>"),
            (Parsed{"", {{"weather", kRomeArguments}}}));
}

TEST(ToolCallParser, LeavesOtherTextAsItIs) {
  for (const char* text : {"", "Hello", " \n Hello <b>you</b> \n", "a < b", "<tool_cal", "<tool_calls>\n{}",
                           "<<<", "</tool_call>", "<function=weather>", "\n\n"}) {
    EXPECT_EQ(json(text), (Parsed{text, {}})) << text;
  }
  EXPECT_EQ(xml("<functions=\n<tool<"), (Parsed{"<functions=\n<tool<", {}}));
}

TEST(ToolCallParser, ReadsSeveralCallsAndTheTextBetween) {
  const Call rome = {"weather", kRomeArguments};
  const std::string call = tagged(kRome);
  EXPECT_EQ(json(call + "\n" + tagged(R"({"name": "now", "arguments": {}})") + "\n"),
            (Parsed{"", {rome, {"now", "{}"}}}));
  EXPECT_EQ(json(call + call), (Parsed{"", {rome, rome}}));
  EXPECT_EQ(json("I look.\n\n" + call), (Parsed{"I look.", {rome}}));
  EXPECT_EQ(json("I look.\n" + call + "\nAnd?\n " + call + "\n"), (Parsed{"I look.\nAnd?", {rome, rome}}));
  EXPECT_EQ(json("\n" + call + "\nDone. "), (Parsed{"Done. ", {rome}}));
}

TEST(ToolCallParser, OneCallOnlyWhereNoMoreMayBeMade) {
  EXPECT_EQ(json(tagged(kRome) + "\n" + tagged(kRome) + "\nDone.", false),
            (Parsed{"Done.", {{"weather", kRomeArguments}}}));
  EXPECT_EQ(json(tagged(kRome) + "\n<tool_call>\n{\"name\": \"weather\", \"argu", false).calls.size(), 1U);
  EXPECT_FALSE(json(tagged(kRome) + "\n<tool_call>\n{\"name\": \"weather\", \"argu", false).cut_off);
}

TEST(ToolCallParser, ArgumentsAreTheTextThatWasWritten) {
  for (const char* arguments : {"{}", "{ }", R"({"a":1,"b":[1,2,{"c":null}],  "d":"}\"]</tool_call>\\"})",
                                R"({"é": "\u00e9 日本 \n"})", R"({"a": -1.5e+3, "b": true, "c": {"d": {}}})",
                                "{\n  \"a\": \"<tool_call>\"\n}"}) {
    const std::string member = std::string("\"arguments\": ") + arguments;
    const Parsed expected{"", {{"now", arguments}}};
    EXPECT_EQ(json(tagged("{\"name\": \"now\", " + member + "}")), expected);
    EXPECT_EQ(json(tagged("{" + member + " , \"name\":\"now\" }")), expected);
    EXPECT_EQ(json(tagged("{\"id\": [1, {}], \"name\": \"now\", \"x\": 1.5, " + member + ", \"y\": \"}\"}")),
              expected);
  }
  EXPECT_EQ(json(tagged(R"({"name": "now", "parameters": {"a": 1}})")),
            (Parsed{"", {{"now", R"({"a": 1})"}}}));
  EXPECT_EQ(json(tagged(R"({"name": "n\u006fw"})")), (Parsed{"", {{"now", "{}"}}}));
}

TEST(ToolCallParser, StreamsArgumentsAsTheyCome) {
  ToolCallParser parser(tools(), {});
  EXPECT_EQ(parser.push("Well.\n").content, "Well.");
  EXPECT_TRUE(parser.push("<tool_call>\n{\"name\": \"weather\", \"arguments\": ").calls.empty());
  ToolCallParser::Result result = parser.push("{\"ci");
  ASSERT_EQ(result.calls.size(), 2U);
  EXPECT_EQ(result.calls[0].name, "weather");
  EXPECT_EQ(result.calls[1].arguments, "{\"ci");
  result = parser.push("ty\": \"R");
  ASSERT_EQ(result.calls.size(), 1U);
  EXPECT_EQ(result.calls[0].arguments, "ty\": \"R");
  result = parser.push("ome\"}}\n</tool_call>\n");
  ASSERT_EQ(result.calls.size(), 1U);
  EXPECT_EQ(result.calls[0].arguments, "ome\"}");
  EXPECT_EQ(result.content, "");
}

TEST(ToolCallParser, HoldsArgumentsBackUntilTheNameIsKnown) {
  ToolCallParser parser(tools(), {});
  EXPECT_TRUE(
      parser.push("<tool_call>\n{\"arguments\": {\"city\": \"Rome\"}, \"name\": \"weather").calls.empty());
  const ToolCallParser::Result result = parser.push("\"");
  ASSERT_EQ(result.calls.size(), 2U);
  EXPECT_EQ(result.calls[1].arguments, R"({"city": "Rome"})");
}

TEST(ToolCallParser, WhatDoesNotBeginLikeACallIsContent) {
  for (const char* inner :
       {"", "nonsense", "[1]", "{}", "{\"name\": 5, \"arguments\": {}}",
        "{\"name\": \"\", \"arguments\": {}}", "{\"name\": \"now\", \"arguments\": \"{}\"}",
        "{\"name\": \"now\", \"arguments\": null}", "{\"arguments\": {\"a\": 1}}", "{'name': 'now'}",
        "{\"name\" \"now\"}", "{\"name\": \"now\" \"x\"}", "{\"na\nme\": 1}", "{\"name\": \"now\", \"x\": [}",
        "{\"x\": ,}", "{\"name\": \"now\""}) {
    const std::string text = "Look: " + tagged(inner) + " so";
    EXPECT_EQ(json(text), (Parsed{text, {}})) << text;
  }
}

TEST(ToolCallParser, AMalformedCallDoesNotHideTheNext) {
  EXPECT_EQ(json("<tool_call>\n" + tagged(kRome)), (Parsed{"<tool_call>", {{"weather", kRomeArguments}}}));
  EXPECT_EQ(json(tagged("{\"name\": \"now\"") + "\n" + tagged(kRome)),
            (Parsed{tagged("{\"name\": \"now\""), {{"weather", kRomeArguments}}}));
}

TEST(ToolCallParser, ACallThatBreaksOffKeepsWhatWasTold) {
  EXPECT_EQ(json(tagged(R"({"name": "now", "arguments": {"a": [1}}})")),
            (Parsed{"}}}\n</tool_call>", {{"now", R"({"a": [1)"}}}));
  EXPECT_EQ(json(tagged(R"({"name": "now", "arguments": {"a": 1)")),
            (Parsed{"</tool_call>", {{"now", "{\"a\": 1\n"}}}));
}

TEST(ToolCallParser, ForgivesAMissingLastBracketAndTextAfterTheCall) {
  const Call now = {"now", R"({"a": 1})"};
  EXPECT_EQ(json(tagged(R"({"name": "now", "arguments": {"a": 1})")), (Parsed{"", {now}}));
  EXPECT_EQ(json("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}"), (Parsed{"", {now}}));
  EXPECT_EQ(json("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n</tool_"),
            (Parsed{"", {now}}));
  EXPECT_EQ(json("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n" + tagged(kRome)),
            (Parsed{"", {now, {"weather", kRomeArguments}}}));
  EXPECT_EQ(json(tagged(R"({"name": "now", "arguments": {"a": 1}}})")), (Parsed{"}\n</tool_call>", {now}}));
}

TEST(ToolCallParser, TextThatEndsInACallIsCutOff) {
  const std::string text = tagged(kRome);
  const size_t arguments = text.find("{\"city");
  const size_t end = arguments + std::string(kRomeArguments).size();
  for (size_t size = 1; size < text.size(); ++size) {
    const std::string part = text.substr(0, size);
    const bool in_call = size >= std::string("<tool_call>").size() && size < end;
    Parsed expected{part, {}, in_call};
    if (size > arguments) expected = {"", {{"weather", part.substr(arguments, end - arguments)}}, in_call};
    EXPECT_EQ(json(part), expected);
  }
}

std::string function(const std::string& inner) {
  return tagged("<function=weather>\n" + inner + "</function>");
}
std::string parameter(const std::string& key, const std::string& value) {
  return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
}

TEST(ToolCallParserXml, ReadsCalls) {
  const std::string call = function(parameter("city", "Rome") + parameter("days", "2"));
  const Call rome = {"weather", kRomeArguments};
  EXPECT_EQ(xml(call), (Parsed{"", {rome}}));
  EXPECT_EQ(xml("I look.\n\n" + call + "\n" + call + "\nSo."), (Parsed{"I look.\nSo.", {rome, rome}}));
  EXPECT_EQ(xml(function("")), (Parsed{"", {{"weather", "{}"}}}));
  EXPECT_EQ(xml("<tool_call><function=now></function></tool_call>"), (Parsed{"", {{"now", "{}"}}}));
  EXPECT_EQ(xml(call + "\n" + call + "\nDone.", false), (Parsed{"Done.", {rome}}));
}

TEST(ToolCallParserXml, ForgivesTagsThatAreLeftOut) {
  const std::string open = "<function=weather>\n" + parameter("days", "2");
  const Call call = {"weather", R"({"days": 2})"};
  EXPECT_EQ(xml(open + "</function>\n</tool_call>"), (Parsed{"", {call}}));
  EXPECT_EQ(xml("So:\n" + open + "</function>\n" + open + "</function>"), (Parsed{"So:", {call, call}}));
  EXPECT_EQ(xml("<tool_call>\n" + open + "</tool_call>\nSo"), (Parsed{"So", {call}}));
  EXPECT_EQ(xml("<tool_call>\n" + open + "</function>\n" + open + "</function>\n</tool_call>"),
            (Parsed{"", {call, call}}));
}

TEST(ToolCallParserXml, TheSchemaTellsWhatAValueMeans) {
  const std::vector<std::pair<std::pair<const char*, const char*>, const char*>> cases = {
      {{"city", "5"}, R"("5")"},
      {{"city", "null"}, R"("null")"},
      {{"city", ""}, R"("")"},
      {{"city", "\n two\n\nlines \n"}, R"("\n two\n\nlines \n")"},
      {{"city", "\"quoted\" \\ é"}, R"("\"quoted\" \\ é")"},
      {{"city", "</function></tool_call><parameter=x>"}, R"("</function></tool_call><parameter=x>")"},
      {{"days", " 12345678901234567890123 "}, "12345678901234567890123"},
      {{"days", "two"}, R"("two")"},
      {{"days", "null"}, "null"},
      {{"days", "01"}, R"("01")"},
      {{"scale", "-1.50e3"}, "-1.50e3"},
      {{"scale", "NaN"}, R"("NaN")"},
      {{"exact", "true"}, "true"},
      {{"exact", "True"}, "true"},
      {{"exact", "False"}, "false"},
      {{"exact", "yes"}, R"("yes")"},
      {{"place", "{\"a\": [1,\n 2]}"}, "{\"a\": [1,\n 2]}"},
      {{"place", "{'a': 1}"}, R"("{'a': 1}")"},
      {{"hours", "[1, 2]"}, "[1, 2]"},
      {{"nothing", "None"}, "null"},
      {{"maybe", "null"}, "null"},
      {{"maybe", "5"}, R"("5")"},
      {{"either", "5"}, "5"},
      {{"either", "five"}, R"("five")"},
      {{"either", "\"five\""}, R"("\"five\"")"},
      {{"color", "1"}, R"("1")"},
      {{"place2", "{}"}, "{}"},
      {{"loop", "{}"}, R"("{}")"},
      {{"free", "5"}, R"("5")"},
      {{"unknown", "5"}, R"("5")"},
  };
  for (const auto& [pair, expected] : cases) {
    const Parsed parsed = xml(function(parameter(pair.first, pair.second)));
    const std::string arguments = "{\"" + std::string(pair.first) + "\": " + expected + "}";
    EXPECT_EQ(parsed, (Parsed{"", {{"weather", arguments}}}));
    EXPECT_TRUE(Json::accept(arguments)) << arguments;
  }
  EXPECT_EQ(xml("<tool_call><function=other><parameter=a>5</parameter></function></tool_call>"),
            (Parsed{"", {{"other", R"({"a": "5"})"}}}));
}

TEST(ToolCallParserXml, OfTwoValuesTheFirstCounts) {
  EXPECT_EQ(xml(function(parameter("days", "1") + parameter("city", "Rome") + parameter("days", "2"))),
            (Parsed{"", {{"weather", R"({"days": 1, "city": "Rome"})"}}}));
}

TEST(ToolCallParserXml, StreamsOneFragmentPerParameter) {
  ToolCallParser parser(tools(), {&kXmlToolCalls, true});
  EXPECT_TRUE(parser.push("<tool_call>\n<function=weather").calls.empty());
  ToolCallParser::Result result = parser.push(">\n<parameter=city>\nRome\n</para");
  ASSERT_EQ(result.calls.size(), 1U);
  EXPECT_EQ(result.calls[0].name, "weather");
  result = parser.push("meter>\n");
  ASSERT_EQ(result.calls.size(), 1U);
  EXPECT_EQ(result.calls[0].arguments, R"({"city": "Rome")");
  result = parser.push("</function>");
  ASSERT_EQ(result.calls.size(), 1U);
  EXPECT_EQ(result.calls[0].arguments, "}");
}

TEST(ToolCallParserXml, GivesWhatIsMalformedAsContent) {
  for (const char* text :
       {"<tool_call>\nnonsense\n</tool_call>", "<tool_call>\n<function=>\n</function>",
        "<tool_call>\n{\"name\": \"now\"}\n</tool_call>", "<function=a\n>", "<function=a"}) {
    const Parsed parsed = xml(text);
    EXPECT_EQ(parsed.content, text);
    EXPECT_TRUE(parsed.calls.empty());
  }
  EXPECT_EQ(xml(function(parameter("city", "Rome") + "Well")),
            (Parsed{"Well</function>\n</tool_call>", {{"weather", R"({"city": "Rome")"}}}));
  EXPECT_EQ(xml("<tool_call>\n<function=weather>\n<parameter=city>\nRo"),
            (Parsed{"<parameter=city>\nRo", {{"weather", ""}}, true}));
}

// Whatever comes, nothing is lost but tags and white space, and how it is cut does not matter.
TEST(ToolCallParser, SurvivesNonsense) {
  const std::vector<std::string> words = {"<tool_call>", "</tool_call>",
                                          "\n",          "{",
                                          "}",           "\"name\"",
                                          ": ",          "\"now\"",
                                          ", ",          "\"arguments\"",
                                          "[",           "]",
                                          "<",           "\\",
                                          "\"",          "text",
                                          "5",           "é",
                                          "<function=",  "now>",
                                          "</function>", "<parameter=",
                                          "a>",          "</parameter>",
                                          " ",           "{\"name\": \"now\", \"arguments\": {",
                                          "{\"a\": 1}"};
  std::mt19937 random(11);
  size_t calls = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = random() % 2 == 0 ? "" : "<tool_call>";
    for (size_t n = random() % 14; n > 0; --n) text += words[random() % words.size()];
    for (const ToolCallFormat* format : tool_call_formats()) {
      const ToolCallParser::Options options{format, random() % 4 != 0};
      const Parsed whole = parse_pieces({text}, options);
      ASSERT_EQ(parse_pieces(bytes_of(text), options), whole) << text;
      calls += whole.calls.size();
    }
  }
  EXPECT_GT(calls, 100U);
}

}  // namespace
}  // namespace chorale::server
