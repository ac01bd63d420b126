#include "server/chat/tool_call_parser.h"

#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "server/wire/json_body.h"
#include "unit/random_cases.h"
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
        "{\"name\": \"\", \"arguments\": {}}", "{\"arguments\": {\"a\": 1}}", "{'name': 'now'}",
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
            (Parsed{"1}}}\n</tool_call>", {{"now", R"({"a": [)"}}}));
  EXPECT_EQ(json(tagged(R"({"name": "now", "arguments": {"a": 1)")),
            (Parsed{"</tool_call>", {{"now", "{\"a\": 1\n"}}}));
}

TEST(ToolCallParser, ControlCharactersInStringsAreEscaped) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\"a\": \"one\ttwo\"}", R"({"a": "one\ttwo"})"},
      {"{\"a\": \"one\ntwo\r\n\"}", R"({"a": "one\ntwo\r\n"})"},
      {"{\"a\": [\"\x01\", {\"k\te\ny\": \"\x1f\"}]}", R"({"a": ["\u0001", {"k\te\ny": "\u001f"}]})"},
      {"{\n\t\"a\":\t1\n}", "{\n\t\"a\":\t1\n}"},
      {R"({"a": "\t\"\\é\u00e9\/"})", R"({"a": "\t\"\\é\u00e9\/"})"},
  };
  for (const auto& [written, told] : cases) {
    EXPECT_EQ(json(tagged("{\"name\": \"now\", \"arguments\": " + written + "}")),
              (Parsed{"", {{"now", told}}}));
    EXPECT_TRUE(Json::accept(told)) << told;
  }
}

TEST(ToolCallParser, AnObjectInAStringIsUnwrapped) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("{\"city\": \"Rome\"}")", R"({"city": "Rome"})"},
      {R"(" {\"a\": [1, {\"b\": \"\\\"\"}]}\n")", R"({"a": [1, {"b": "\""}]})"},
      {"\"{\n\t\\\"a\\\": \\\"x\ty\\\"\n}\"", "{\n\t\"a\": \"x\\ty\"\n}"},
      {R"("{}")", "{}"},
      {R"("")", "{}"},
      {R"("  \n")", "{}"},
      {R"("null")", "{}"},
      {"null", "{}"},
  };
  for (const auto& [written, told] : cases) {
    for (const char* key : {"arguments", "parameters"}) {
      const std::string member = fmt::format("\"{}\": {}", key, written);
      const Parsed expected{"", {{"now", told}}};
      EXPECT_EQ(json(tagged(fmt::format("{{\"name\": \"now\", {}}}", member))), expected) << member;
      EXPECT_EQ(json(tagged(fmt::format("{{{}, \"name\": \"now\"}}", member))), expected) << member;
      EXPECT_EQ(json("<tool_call>\n{\"name\": \"now\", " + member + "\n</tool_call>"), expected) << member;
    }
  }
}

// What no client could parse and nothing mends.
TEST(ToolCallParser, ArgumentsThatAreNotJsonAreNoCall) {
  for (const std::string arguments : {R"({"a": "\d+"})",
                                      R"({"a": "C:\x"})",
                                      R"({"a": "\u00g0"})",
                                      R"({"a": True})",
                                      R"({"a": None})",
                                      R"({"a": 007})",
                                      R"({"a": 1.})",
                                      R"({"a": .5})",
                                      R"({"a": +1})",
                                      R"({"a": NaN})",
                                      R"({"a": 1,})",
                                      R"({"a": [1,]})",
                                      R"({,})",
                                      R"({"a" 1})",
                                      R"({"a": 1 "b": 2})",
                                      R"({"a":: 1})",
                                      R"({a: 1})",
                                      R"({'a': 1})",
                                      R"({"a": [1})",
                                      R"({"a"})",
                                      R"({1: 2})",
                                      R"({"a": "b" "c"})",
                                      R"([{"a": 1}])",
                                      R"("[1]")",
                                      R"("Rome")",
                                      R"("{\"a\": 1")",
                                      R"("{\"a\": True}")",
                                      R"("{} {}")",
                                      "5",
                                      "true",
                                      "nothing"}) {
    const std::string text = tagged("{\"name\": \"now\", \"arguments\": " + arguments + "}");
    EXPECT_EQ(parse(text, {&kJsonToolCalls, true, true}), (Parsed{text, {}})) << arguments;
    ToolCallParser parser(tools(), {});  // a stream has told a part of it, and says so
    const bool told = !parser.push(text).calls.empty();
    parser.finish();
    EXPECT_EQ(parser.told_broken(), told) << arguments;
  }
}

TEST(ToolCallParser, ACallThatIsToldAsAWholeIsCompleteOrContent) {
  const std::string city =
      "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>";
  for (const auto& [format, call] : std::vector<std::pair<const ToolCallFormat*, std::string>>{
           {&kJsonToolCalls, tagged(kRome)}, {&kXmlToolCalls, city + "\n</tool_call>"}}) {
    for (size_t size = 1; size <= call.size(); ++size) {
      for (const std::string& before : {std::string(), call + "\n"}) {
        const Parsed parsed = parse_pieces({before + call.substr(0, size)}, {format, true, true});
        const size_t calls = before.empty() ? 0 : 1;
        for (const Call& told : parsed.calls) EXPECT_TRUE(Json::accept(told.arguments)) << told.arguments;
        ASSERT_GE(parsed.calls.size(), calls);
        if (parsed.calls.size() == calls) {
          EXPECT_EQ(parsed.content.empty(), call.substr(0, size).empty());
          EXPECT_EQ(parsed.content, call.substr(0, size));
        } else {
          EXPECT_EQ(parsed.content, "");
        }
      }
    }
  }
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
    if (part.ends_with('2')) {  // a number is told when it has ended
      expected.calls[0].arguments.pop_back();
      expected.content = "2";
    }
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
      {{"city", "<b>a</b> < <parameter>5</parameters></functions><function=x></para"},
       R"("<b>a</b> < <parameter>5</parameters></functions><function=x></para")"},
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

// Where a value ends, of whatever type: what follows tells a closing tag from text that looks like one.
TEST(ToolCallParserXml, AValueEndsWhereATagOfTheCallFollows) {
  const std::string rest = parameter("days", "2");
  const auto city = [&](const std::string& written) {
    const Parsed parsed = xml(function(written + rest));
    if (parsed.calls.size() != 1 || !parsed.content.empty()) return std::string("no call");
    const Json arguments = Json::parse(parsed.calls[0].arguments);
    EXPECT_EQ(arguments["days"], 2);
    return arguments["city"].get<std::string>();
  };
  const std::string open = "<parameter=city>\n";
  EXPECT_EQ(city(open + "Rome\n"), "Rome");
  EXPECT_EQ(city(open + "Rome"), "Rome");
  EXPECT_EQ(city(open + "Rome\n\n"), "Rome\n");
  EXPECT_EQ(city(open + "Rome\n</parameter >\n"), "Rome");
  EXPECT_EQ(city(open + "Rome\n</parameter/>\n"), "Rome");
  EXPECT_EQ(city(open + "Rome\n</parameter />"), "Rome");
  EXPECT_EQ(city(open + "Rome\n</parameter\n>"), "Rome");
  EXPECT_EQ(city("<parameter=city\nRome\n</parameter>\n"), "Rome");
  EXPECT_EQ(city("<parameter=city >Rome</parameter>\t \n"), "Rome");
  EXPECT_EQ(city(open + "a</parameter>b\n</parameter>\n"), "a</parameter>b");
  EXPECT_EQ(city(open + "</parameter>\n</parameter>\n"), "</parameter>");
  EXPECT_EQ(city(open + "</parameter>\n\n</parameter></parameter>\n"), "</parameter>\n\n</parameter>");
  EXPECT_EQ(city(open + "</parameter> <b></parameter >\n"), "</parameter> <b>");
  EXPECT_EQ(city(open + "</parameter\n</parameter>"), "</parameter");
  EXPECT_EQ(city(open + "<</parameter><</parameter>"), "<</parameter><");
  EXPECT_EQ(city(open + "</parameter></functio</parameter>"), "</parameter></functio");
}

TEST(ToolCallParserXml, AValueMayEndTheCall) {
  const Call rome = {"weather", R"({"city": "Rome"})"};
  const Call two = {"weather", R"({"days": 2})"};
  for (const char* end :
       {"\n</parameter>\n</function>\n</tool_call>", "\n</function>\n</tool_call>", "</tool_call>",
        "\n</parameter>\n</tool_call>", "</parameter></function >\n</tool_call>",
        "\n</parameter/></function/></tool_call>"}) {
    const std::string open = "<tool_call>\n<function=weather>\n";
    EXPECT_EQ(xml(open + "<parameter=city>\nRome" + end), (Parsed{"", {rome}})) << end;
    EXPECT_EQ(xml(open + "<parameter=days>\n2" + end), (Parsed{"", {two}})) << end;
    EXPECT_EQ(xml("<tool_call>\n<function=weather\n<parameter=days\n2" + std::string(end)),
              (Parsed{"", {two}}));
  }
}

TEST(ToolCallParserXml, StreamsStringsAsTheyCome) {
  ToolCallParser parser(tools(), {&kXmlToolCalls, true});
  const auto arguments = [](const ToolCallParser::Result& result) {
    std::string text;
    for (const ToolCallDelta& delta : result.calls) text += delta.arguments;
    return text;
  };
  EXPECT_TRUE(parser.push("<tool_call>\n<function=weather>\n<parameter=days>\n2").calls.empty());
  ToolCallParser::Result result = parser.push("\n</parameter>\n<parameter=city>");
  ASSERT_EQ(result.calls.size(), 2U);
  EXPECT_EQ(result.calls[0].name, "weather");
  EXPECT_EQ(arguments(result), R"({"days": 2, "city": ")");
  EXPECT_EQ(arguments(parser.push("\nRo")), "Ro");
  EXPECT_EQ(arguments(parser.push("me\n")), "me");
  EXPECT_EQ(arguments(parser.push("\"and\" ")), R"(\n\"and\" )");
  EXPECT_EQ(arguments(parser.push("<b></para")), "<b>");
  EXPECT_EQ(arguments(parser.push("meter")), "");
  EXPECT_EQ(arguments(parser.push("s>")), "</parameters>");
  EXPECT_EQ(arguments(parser.push("</parameter>\n")), "");
  EXPECT_EQ(arguments(parser.push("</function>")), "\"}");
}

// A file of 20 kB does not wait for its end.
TEST(ToolCallParserXml, ALongStringIsNeverHeldBackForLong) {
  ToolCallParser parser(tools(), {&kXmlToolCalls, true});
  parser.push("<tool_call>\n<function=weather>\n<parameter=city>\n");
  const std::string line = "  if (a < b) return \"</parameter>\";\n\n";
  std::string told;
  std::string written;
  while (written.size() < 20000) {
    written += line;
    for (const ToolCallDelta& delta : parser.push(line).calls) told += delta.arguments;
    const std::string so_far = Json::parse("\"" + told + "\"").get<std::string>();
    ASSERT_LE(written.size() - so_far.size(), 1U);
  }
}

TEST(ToolCallParserXml, GivesWhatIsMalformedAsContent) {
  for (const char* text :
       {"<tool_call>\nnonsense\n</tool_call>", "<tool_call>\n<function=>\n</function>",
        "<tool_call>\n{\"name\": \"now\"}\n</tool_call>", "<function=a\n>", "<function=a", "<function=a>\n",
        "<function=a>\nWell", "<function=a>\n</parameter>", "<function=a<b>",
        "<function=weather>\n<parameter=days>\n2", "<function=weather>\n<parameter=>2</parameter>"}) {
    const Parsed parsed = xml(text);
    EXPECT_EQ(parsed.content, text);
    EXPECT_TRUE(parsed.calls.empty());
  }
  EXPECT_EQ(xml("<tool_call>\n<function=weather>\n<parameter=city>\nRo"),
            (Parsed{"", {{"weather", R"({"city": "Ro)"}}, true}));
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
  for (int round = 0; round < random_cases(4000); ++round) {
    std::string text = random() % 2 == 0 ? "" : "<tool_call>";
    for (size_t n = random() % 14; n > 0; --n) text += words[random() % words.size()];
    for (const ToolCallFormat* format : tool_call_formats()) {
      const ToolCallParser::Options options{format, random() % 4 != 0};
      const Parsed whole = parse_pieces({text}, options);
      ASSERT_EQ(parse_pieces(bytes_of(text), options), whole) << text;
      calls += whole.calls.size();
    }
  }
  EXPECT_GT(calls, unsigned{random_cases(100)});
}

}  // namespace
}  // namespace chorale::server
