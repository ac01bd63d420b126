#include "text/chat_template.h"

#include <chrono>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/text/text_fixtures.h"

namespace chorale::text {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

ChatTemplate from(std::string_view source) {
  return ChatTemplate::from_source(source, "<bos>", "<eos>");
}

// The rendered text; fails the test when there is an error.
std::string text_of(const ChatTemplate& chat, std::string_view variables = "{}") {
  const auto rendered = chat.render(variables);
  if (const auto* error = std::get_if<RequestError>(&rendered)) {
    ADD_FAILURE() << error->message;
    return "";
  }
  return std::get<std::string>(rendered);
}

// The message of the error, which is a 400 about the messages; fails the test when there is none.
std::string error_of(const ChatTemplate& chat, std::string_view variables = "{}") {
  const auto rendered = chat.render(variables);
  const auto* error = std::get_if<RequestError>(&rendered);
  if (error == nullptr) {
    ADD_FAILURE() << "expected an error, found " << std::get<std::string>(rendered).size() << " bytes";
    return "";
  }
  EXPECT_EQ(error->kind, RequestError::Kind::invalid);
  EXPECT_EQ(error->param, "messages");
  return error->message;
}

TEST(ChatTemplate, RendersQwen3sTemplateAsTransformers) {
  const auto chat = ChatTemplate::load(kBundledModel);
  ASSERT_TRUE(chat.has_value());
  ASSERT_EQ(chat->error(), std::nullopt);
  const Json golden = read_golden("qwen3_chat_golden.json");
  EXPECT_EQ(golden.size(), 66U);
  for (const Json& entry : golden) {
    Json variables = entry;
    variables.erase("rendered");
    EXPECT_EQ(text_of(*chat, variables.dump()), entry["rendered"].get<std::string>()) << variables.dump();
  }
}

TEST(ChatTemplate, IsTheRealOne) {
  EXPECT_EQ(Json::parse(std::ifstream(kBundledModel / "tokenizer_config.json"))["chat_template"],
            Json::parse(std::ifstream(kQwen3Tokenizer / "tokenizer_config.json"))["chat_template"]);
}

TEST(ChatTemplate, MayBeUsedByManyThreads) {
  const auto chat = ChatTemplate::load(kBundledModel);
  Json variables = read_golden("qwen3_chat_golden.json")[0];
  const auto expected = variables["rendered"].get<std::string>();
  variables.erase("rendered");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 50; ++k) EXPECT_EQ(text_of(*chat, variables.dump()), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ChatTemplate, HasTheVariablesOfTransformers) {
  EXPECT_EQ(text_of(from("{{ bos_token }}{{ eos_token }}")), "<bos><eos>");
  EXPECT_EQ(text_of(from("{{ bos_token }}"), R"({"bos_token": "mine"})"), "mine");
  EXPECT_EQ(text_of(from("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}")),
            "True True False");
  EXPECT_EQ(text_of(from("{{ strftime_now('%Y')|length }}")), "4");
}

TEST(ChatTemplate, ReadsAsPythonsJinja) {
  // Blocks take their line with them; the last line break is not written.
  EXPECT_EQ(text_of(from("a\n  {% if true %}\nb\n  {% endif %}\nc\n")), "a\nb\nc");
  EXPECT_EQ(text_of(from("{{ ' x '.strip() }}{{ 'a-b'.split('-')[1] }}{{ 'ab'.startswith('a') }}")),
            "xbTrue");
  EXPECT_EQ(text_of(from("{{ 'abc'.removeprefix('a').removesuffix('c') }}{{ 'b'.removeprefix('x') }}")),
            "bb");
  EXPECT_EQ(text_of(from("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}"
                         "{% endfor %}{{ ns.n }}")),
            "3");
  EXPECT_EQ(text_of(from("{{ none }} {{ true }} {{ 1.0 }} {{ [1, 'a'] }}")), "None True 1.0 [1, 'a']");
  EXPECT_EQ(text_of(from("{% generation %}a{% endgeneration %}")), "a");
}

// What Python's str gives, wherever a value becomes text.
TEST(ChatTemplate, WritesNumbersAndConstantsAsPython) {
  constexpr const char* kVariables =
      R"({"a": 1e-07, "b": 1.0, "c": 1e16, "d": 0.1, "e": true, "f": false, "g": null, "h": 12345678901234567890,
          "i": -2.5e-10, "j": 100000.0})";
  EXPECT_EQ(text_of(from("{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f }} {{ g }} {{ h }} {{ i }} {{ j }}"),
                    kVariables),
            "1e-07 1.0 1e+16 0.1 True False None 12345678901234567890 -2.5e-10 100000.0");
  EXPECT_EQ(
      text_of(from("{{ a | string }} {{ c | string }} {{ e | string }} {{ g | string }} {{ 'x' | string }}"),
              kVariables),
      "1e-07 1e+16 True None x");
  EXPECT_EQ(
      text_of(
          from("{{ [a, [c], '1e-7', {'k': i}, (e, g)] }}|{{ [a, c]|string }}|{{ {'k': a}.items()|list }}"),
          kVariables),
      "[1e-07, [1e+16], '1e-7', {'k': -2.5e-10}, (True, None)]|[1e-07, 1e+16]|[('k', 1e-07)]");
  EXPECT_EQ(text_of(from("{{ [a, c, e, g, 'x', [a]]|join(', ') }}|{{ ['x', 'y']|join }}|"
                         "{{ [{'n': 'x'}, {'n': 'y'}]|join(',', attribute='n') }}"),
                    kVariables),
            "1e-07, 1e+16, True, None, x, [1e-07]|xy|x,y");
  EXPECT_EQ(
      text_of(
          from("{{ a ~ '|' ~ c ~ [a] ~ e ~ g }} {{ 'x' ~ -a * 2 ~ b + 'y' }} {{ ('' ~ a)|upper ~ a|pprint }} "
               "{%- set s = i ~ '' if a is number else i ~ a %} {{ s ~ missing }} {{ ['x', a]|pprint }}"),
          kVariables),
      "1e-07|1e+16[1e-07]TrueNone x-2e-071.0y 1E-071e-07 -2.5e-10 ['x', 1e-07]");
}

TEST(ChatTemplate, WritesJsonAsPythonsJsonDumps) {
  const std::string variables =
      R"({"x": {"b": 1, "a": [true, null, 1.5, 1e30, "<\u00e9\"\n\u0001&'>"], "c": {}, "d": 12345678901234567890}})";
  EXPECT_EQ(
      text_of(from("{{ x|tojson }}"), variables),
      R"({"b": 1, "a": [true, null, 1.5, 1e+30, "<é\"\n\u0001&'>"], "c": {}, "d": 12345678901234567890})");
  EXPECT_EQ(text_of(from("{{ [1, {'k': 'é'}]|tojson(indent=2, ensure_ascii=true) }}")),
            "[\n  1,\n  {\n    \"k\": \"\\u00e9\"\n  }\n]");
  EXPECT_EQ(text_of(from("{{ {'b': 'é', 'a': 1}|tojson(separators=(',', ':'), sort_keys=true) }}")),
            R"({"a":1,"b":"é"})");
  EXPECT_EQ(text_of(from("{{ {'b': 'é', 'a': 1}|tojson(true) }}")), R"({"b": "\u00e9", "a": 1})");
  EXPECT_THAT(error_of(from("{{ 1|tojson(no_such=1) }}")), HasSubstr("no_such"));
}

TEST(ChatTemplate, KeepsAllText) {
  const std::string text("zero \0 and \U0001F409", 15);
  EXPECT_EQ(text_of(from("{{ x }}"), Json{{"x", text}}.dump()), text);
}

// ---- errors

TEST(ChatTemplate, AWrongSyntaxIsReportedAndNotThrown) {
  const ChatTemplate chat = from("fine\n{% if %}");
  ASSERT_TRUE(chat.error().has_value());
  EXPECT_THAT(*chat.error(), AllOf(HasSubstr("syntax error"), HasSubstr("line 2")));
  EXPECT_EQ(error_of(chat), "The model's chat template cannot be used.");

  for (const char* source : {"{{", "{% for x in y %}", "{{ 'a }}", "{% endif %}", "{# open",
                             "{{ x|no_such }}", "{% include 'other' %}", "{{ a b }}", "\xFF"}) {
    const ChatTemplate wrong = from(source);
    EXPECT_NE(error_of(wrong), "") << source;
  }
}

TEST(ChatTemplate, TheTemplatesOwnRefusalIsTheMessage) {
  EXPECT_EQ(error_of(from("{{ raise_exception('Roles must alternate.') }}")),
            "The model's chat template failed: Roles must alternate.");
  // Also from within calls.
  EXPECT_EQ(error_of(from("{% macro f() %}{{ raise_exception('deep') }}{% endmacro %}a{{ f() }}")),
            "The model's chat template failed: deep");
}

TEST(ChatTemplate, FailuresAreErrors) {
  EXPECT_THAT(error_of(from("a\n{{ messages[0].content.nothing.there }}"),
                       R"({"messages": [{"role": "user", "content": "x"}]})"),
              HasSubstr("line 2"));
  for (const char* source :
       {"{{ 1 // 0 }}", "{{ 'a' + 1 }}", "{{ no_such() }}", "{{ 'a'.no_such() }}", "{{ none.x.y }}",
        "{{ 10 ** 1000000000 }}", "{{ x.y.z }}", "{{ strftime_now('%') }}", "{{ range(10 ** 12) }}"}) {
    EXPECT_THAT(error_of(from(source)), StartsWith("The model's chat template failed: ")) << source;
  }
}

TEST(ChatTemplate, VariablesMustBeAnObject) {
  for (const char* variables : {"", "{", "[]", "1", "null", "\"a\"", "{\"a\": \xFF}", "{} {}"}) {
    EXPECT_NE(error_of(from("a"), variables), "") << variables;
  }
  // Deeper than the reader goes, far deeper than the stack.
  const std::string deep = R"({"a": )" + std::string(1000000, '[') + std::string(1000000, ']') + "}";
  EXPECT_THAT(error_of(from("a"), deep), HasSubstr("recursion"));
}

TEST(ChatTemplate, TimeIsBounded) {
  const auto start = std::chrono::steady_clock::now();
  const char* loop = "{% for x in range(10000) %}";
  const char* end = "{% endfor %}";
  EXPECT_THAT(error_of(from(std::string(loop) + loop + loop + end + end + end)), HasSubstr("too many steps"));
  EXPECT_THAT(error_of(from(std::string(loop) + loop + "{% set y = text.upper() %}" + end + end),
                       Json{{"text", std::string(100000, 'a')}}.dump()),
              HasSubstr("too many steps"));
  EXPECT_THAT(error_of(from("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")),
              HasSubstr("recursion limit"));
  EXPECT_THAT(error_of(from("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}")),
              HasSubstr("recursion limit"));
  // Far more than it takes; without the bounds these run for ages.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(ChatTemplate, OutputIsBounded) {
  const std::string text = Json{{"text", std::string(100000, 'a')}}.dump();
  EXPECT_THAT(error_of(from("{% for x in range(10000) %}{{ text }}{% endfor %}"), text),
              HasSubstr("longer than 64 MiB"));
  // Texts that are never written, too.
  for (const char* source : {
           "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
           "{% set x %}{% for i in range(10000) %}{{ text }}{% endfor %}{% endset %}",
           "{{ ('a' * 10000000000)|length }}",
           "{{ 'a\nb'|indent(1000000000)|length }}",
           "{{ text.replace('a', text)|length }}",
           "{% for i in range(10000) %}{% set x = text|tojson %}{% endfor %}",
       }) {
    // A sanitizer's memory may be used up first.
    EXPECT_THAT(error_of(from(source), text),
                AnyOf(HasSubstr("too many steps"), HasSubstr("512 MiB of memory")))
        << source;
  }
  EXPECT_THAT(error_of(from("{{ [1]|tojson(indent=1000000000) }}")), HasSubstr("indent"));
  EXPECT_EQ(text_of(from("{{ text }}"), text).size(), 100000U);
}

TEST(ChatTemplate, DeepNestingInTheSourceIsAnError) {
  const std::string open(100000, '(');
  const std::string close(100000, ')');
  EXPECT_NE(error_of(from("{{ " + open + "1" + close + " }}")), "");
  // Deep values are not written as JSON.
  EXPECT_THAT(error_of(from("{% set ns = namespace(v=[]) %}{% for i in range(1000) %}{% set ns.v = [ns.v] %}"
                            "{% endfor %}{{ ns.v|tojson }}")),
              HasSubstr("nested"));
}

// ---- files

TEST(ChatTemplateFiles, NoneIsNoError) {
  TemporaryFolder folder;
  EXPECT_FALSE(ChatTemplate::load(folder.path()).has_value());
  folder.write("tokenizer_config.json", R"({"eos_token": "x"})");
  EXPECT_FALSE(ChatTemplate::load(folder.path()).has_value());
  folder.write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_FALSE(ChatTemplate::load(folder.path()).has_value());
}

TEST(ChatTemplateFiles, TheJinjaFileComesFirst) {
  TemporaryFolder folder;
  folder.write("tokenizer_config.json",
               R"({"chat_template": "config {{ eos_token }}", "eos_token": {"content": "<end>"}})");
  EXPECT_EQ(text_of(*ChatTemplate::load(folder.path())), "config <end>");
  folder.write("chat_template.jinja", "file {{ eos_token }}");
  EXPECT_EQ(text_of(*ChatTemplate::load(folder.path())), "file <end>");
}

TEST(ChatTemplateFiles, OfNamedTemplatesTheDefaultIsTaken) {
  TemporaryFolder folder;
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                                              {"name": "default", "template": "plain"}]})");
  EXPECT_EQ(text_of(*ChatTemplate::load(folder.path())), "plain");
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"}]})");
  const auto chat = ChatTemplate::load(folder.path());
  ASSERT_TRUE(chat.has_value());
  EXPECT_THAT(chat->error().value_or(""), HasSubstr("\"default\""));
}

// As transformers: the one of that name where there are tools.
TEST(ChatTemplateFiles, ToolsHaveATemplateOfTheirOwn) {
  constexpr const char* kTools = R"({"tools": [{"type": "function"}]})";
  TemporaryFolder folder;
  folder.write(
      "tokenizer_config.json",
      "\xEF\xBB\xBF"
      R"({"eos_token": "<e>", "chat_template": [{"name": "default", "template": "plain{{ eos_token }}"},
                   {"name": "tool_use", "template": "with {{ tools | length }}{{ eos_token }}"}]})");
  const auto chat = ChatTemplate::load(folder.path());
  ASSERT_TRUE(chat);
  EXPECT_EQ(text_of(*chat), "plain<e>");
  EXPECT_EQ(text_of(*chat, R"({"tools": null})"), "plain<e>");
  EXPECT_EQ(text_of(*chat, kTools), "with 1<e>");

  // In files of their own these come first, both of them.
  folder.write("chat_template.jinja", "file");
  EXPECT_EQ(text_of(*ChatTemplate::load(folder.path()), kTools), "file");
  std::filesystem::create_directory(folder / "additional_chat_templates");
  folder.write("additional_chat_templates/tool_use.jinja", "file with {{ tools | length }}");
  EXPECT_EQ(text_of(*ChatTemplate::load(folder.path()), kTools), "file with 1");
  EXPECT_EQ(text_of(*ChatTemplate::load(folder.path())), "file");
  folder.write("additional_chat_templates/tool_use.jinja", "{% for %}");
  EXPECT_THAT(ChatTemplate::load(folder.path())->error().value_or(""), HasSubstr("tool_use.jinja"));
}

TEST(ChatTemplateFiles, OneMayTakeThePlaceOfTheCheckpoints) {
  constexpr const char* kTools = R"({"tools": [{"type": "function"}]})";
  TemporaryFolder folder;
  folder.write("tokenizer_config.json",
               R"({"eos_token": "<e>", "chat_template": [{"name": "default", "template": "no"},
                                                              {"name": "tool_use", "template": "no"}]})");
  folder.write("chat_template.jinja", "no");
  folder.write("own.jinja", "own {{ eos_token }}{{ 'with tools' if tools else '' }}");
  const auto chat = ChatTemplate::load(folder.path(), folder / "own.jinja");
  EXPECT_EQ(text_of(chat), "own <e>");
  EXPECT_EQ(text_of(chat, kTools), "own <e>with tools");
  EXPECT_THAT(chat.given_text(), StartsWith("own {{"));
  EXPECT_EQ(ChatTemplate::load(folder.path())->given_text(), "");

  const auto error = [&](const char* file) {
    return ChatTemplate::load(folder.path(), folder / file).error().value_or("");
  };
  folder.write("bad.jinja", "first\n{% if %}\n");
  EXPECT_THAT(error("bad.jinja"), AllOf(StartsWith((folder / "bad.jinja").string()), HasSubstr("(line 2)")));
  EXPECT_THAT(error("absent.jinja"),
              AllOf(StartsWith((folder / "absent.jinja").string()), HasSubstr("no such file")));
  folder.write("tokenizer_config.json", "{");
  EXPECT_THAT(error("own.jinja"), StartsWith((folder / "tokenizer_config.json").string()));
}

TEST(ChatTemplateFiles, ErrorsNameTheFile) {
  TemporaryFolder folder;
  const auto error = [&] {
    const auto chat = ChatTemplate::load(folder.path());
    return chat ? chat->error().value_or("") : "";
  };
  const std::string config = (folder.path() / "tokenizer_config.json").string();
  for (const char* text : {"{", "[]", R"({"chat_template": 1})", R"({"chat_template": "{% if %}"})"}) {
    folder.write("tokenizer_config.json", text);
    EXPECT_THAT(error(), StartsWith(config)) << text;
  }
  const std::string jinja = (folder.path() / "chat_template.jinja").string();
  folder.write("tokenizer_config.json", "{}");
  folder.write("chat_template.jinja", "{% if %}");
  EXPECT_THAT(error(), StartsWith(jinja));
  folder.write("chat_template.jinja", "\xFF");
  EXPECT_THAT(error(), StartsWith(jinja));
  // A client is not told where the server's files are.
  EXPECT_THAT(error_of(*ChatTemplate::load(folder.path())), Not(HasSubstr(folder.path().string())));
}

}  // namespace
}  // namespace chorale::text
