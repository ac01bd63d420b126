#include "text/grammar.h"

#include <cstdint>
#include <ctime>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/text/grammar_fixture.h"

namespace chorale::text {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Le;
using testing::SizeIs;

// ---- what is in a language

TEST(Grammar, TokensMayBePartsOfCharacters) {
  const Vocabulary& vocabulary = kVocabularies[0];
  const std::string text = "\U0001F600";
  GrammarMatcher matcher(compile(bundled(), GrammarKind::kChoice, "[\"" + text + "\"]"));
  std::map<std::string, int32_t> byte_tokens;
  for (int32_t id = 0; id < vocabulary.tokenizer().vocab_size(); ++id) {
    byte_tokens.emplace(vocabulary.tokenizer().token_bytes(id), id);
  }
  for (const char byte : text) {
    EXPECT_FALSE(matcher.is_accepting());
    ASSERT_TRUE(accept(matcher, byte_tokens.at(std::string(1, byte))));
  }
  EXPECT_TRUE(matcher.is_finished());
}

TEST(Grammar, ControlTokensAreNotText) {
  GrammarMatcher matcher(compile(qwen3(), GrammarKind::kJsonSchema, R"({"type": "string"})"));
  ASSERT_TRUE(accept(matcher, qwen3_tokenizer().token_to_id("\"").value()));
  std::vector<uint32_t> mask(qwen3().mask_words());
  ASSERT_FALSE(matcher.compute_mask(mask));
  for (const char* token :
       {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>"}) {
    EXPECT_FALSE(is_allowed(mask, qwen3_tokenizer().token_to_id(token).value())) << token;
  }
  EXPECT_GT(allowed_tokens(mask).size(), 100000U);
}

TEST(Grammar, WhitespaceInJsonIsBounded) {
  const GrammarSource object{GrammarKind::kJsonObject, ""};
  const auto takes = [&](std::string_view text) {
    return matches(bundled(), bundled_tokenizer(), object, text);
  };
  EXPECT_TRUE(takes(R"({"a":1,"b":[true,null]})"));
  EXPECT_TRUE(takes(R"({"a": 1, "b": [true, null]})"));
  EXPECT_TRUE(takes("{\n  \"a\": {\n        \"b\": 1\n    }\n}"));
  EXPECT_TRUE(takes("{\r\n\t\"a\": 1\r\n}"));
  EXPECT_FALSE(takes("{     \"a\":1}"));
  EXPECT_FALSE(takes("{\n\n\n\"a\":1}"));
  EXPECT_FALSE(takes("{\n" + std::string(41, ' ') + "\"a\":1}"));
  EXPECT_FALSE(takes(" {}"));
  EXPECT_FALSE(takes("[]"));
}

TEST(Grammar, AnchorsOfRegularExpressionsSayNothing) {
  const auto takes = [](const char* regex, std::string_view text) {
    return matches(bundled(), bundled_tokenizer(), {GrammarKind::kRegex, regex}, text);
  };
  EXPECT_TRUE(takes("^a|b$", "a"));
  EXPECT_TRUE(takes("^a|b$", "b"));
  EXPECT_FALSE(takes("^a|b$", "ab"));
  EXPECT_TRUE(takes(R"(a\$)", "a$"));
  EXPECT_FALSE(takes(R"(a\$)", "a"));
  EXPECT_TRUE(takes("/[/]/", "///"));
}

TEST(Grammar, AChoiceMayBeginAnother) {
  const GrammarSource source{GrammarKind::kChoice, R"(["a", "ab", ""])"};
  for (const char* text : {"a", "ab", ""}) {
    EXPECT_TRUE(matches(bundled(), bundled_tokenizer(), source, text)) << text;
  }
  EXPECT_FALSE(matches(bundled(), bundled_tokenizer(), source, "b"));
}

TEST(Grammar, GbnfMayLeaveOutSpacesAndUseAllItsForms) {
  const auto takes = [](const char* rules, std::string_view text) {
    return matches(bundled(), bundled_tokenizer(), {GrammarKind::kEbnf, rules}, text);
  };
  EXPECT_TRUE(takes("root::=\"a\"|b c{2}\nb::=.\nc::=[^x]", "zyy"));
  EXPECT_FALSE(takes("root::=\"a\"|b c{2}\nb::=.\nc::=[^x]", "zyx"));
  EXPECT_TRUE(takes("a-b ::= \"\\u00e9\\x41\\t\" # root ::= no\nroot ::= a-b{,2} [\\]\\-a-]", "\u00E9A\t-"));
  EXPECT_TRUE(takes("root ::= a | \"x\" root\na ::= \"\" | \"y\"", "xx"));
  EXPECT_TRUE(takes("root ::= \"a\"{2,} \"b\"{0}", "aaa"));
  EXPECT_FALSE(takes("root ::= \"a\"{2,} \"b\"{0}", "a"));
}

// ---- what is refused

TEST(Grammar, SaysWhatItDoesNotSupport) {
  const auto schema = GrammarKind::kJsonSchema;
  EXPECT_THAT(error_of(schema, "{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(schema, "[1]"), HasSubstr("neither an object nor true"));
  EXPECT_THAT(error_of(schema, R"({"not": {"type": "string"}})"), HasSubstr("not"));
  EXPECT_THAT(error_of(schema, R"({"$ref": "http://example.com/a"})"), HasSubstr("http://example.com/a"));
  EXPECT_THAT(error_of(schema, R"({"$ref": "file:///etc/passwd"})"), HasSubstr("does not fetch"));
  EXPECT_THAT(error_of(schema, R"({"type": "integer", "minimum": 3, "maximum": 2})"), HasSubstr("minimum"));
  EXPECT_THAT(error_of(schema, R"({"x-guidance": {}})"), HasSubstr("x-guidance"));
  EXPECT_THAT(error_of(GrammarKind::kRegex, "(a"), HasSubstr("unclosed group"));
  EXPECT_THAT(error_of(GrammarKind::kRegex, "(?=a)b"), HasSubstr("look-around"));
  EXPECT_THAT(error_of(GrammarKind::kRegex, "^$"), HasSubstr("empty"));
  EXPECT_THAT(error_of(GrammarKind::kChoice, "[]"), HasSubstr("1 to 4096"));
  EXPECT_THAT(error_of(GrammarKind::kChoice, "[1]"), HasSubstr("list of texts"));
  EXPECT_THAT(error_of(GrammarKind::kLark, " "), HasSubstr("empty"));
  EXPECT_THAT(error_of(GrammarKind::kLark, "start: nothing"), HasSubstr("nothing"));
  EXPECT_THAT(error_of(GrammarKind::kLark, "\xFF"), HasSubstr("UTF-8"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "a ::= \"b\""), HasSubstr("root"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "root ::= b"), HasSubstr("no rule of the name b"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "root ::= \"a\"\nroot ::= \"b\""), HasSubstr("two rules"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "root ::= \"a\n\""), HasSubstr("line 2, column 1"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "root ::= [b-a]"), HasSubstr("range"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "root ::= \"a\"{3,2}"), HasSubstr("repetitions"));
  EXPECT_THAT(error_of(GrammarKind::kEbnf, "root ::= \"a\" (=\"b\")"), HasSubstr("lookahead"));
}

std::string repeat(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

std::string members(int count, const char* value) {
  std::string result;
  for (int i = 0; i < count; ++i) result += fmt::format("{}\"k{}\": {}", i == 0 ? "" : ", ", i, value);
  return result;
}

TEST(Grammar, BoundsItsWorkOnSourcesThatAreMadeToHurt) {
  const auto schema = GrammarKind::kJsonSchema;
  const auto regex = GrammarKind::kRegex;
  const auto ebnf = GrammarKind::kEbnf;
  std::string doubling;
  for (int i = 0; i < 40; ++i) doubling += fmt::format("r{} ::= r{} r{}\n", i, i + 1, i + 1);
  std::string chain;
  for (int i = 0; i < 3000; ++i) chain += fmt::format("T{}: T{} \"a\"\n", i, i + 1);
  std::string enums;
  for (int i = 0; i < 10000; ++i) enums += fmt::format("{}\"value {}\"", i == 0 ? "" : ", ", i);
  const std::vector<GrammarSource> sources = {
      {regex, "(a{1000}){1000}"},
      {regex, "(x+x+)+y"},
      {regex, "[ab]*a[ab]{60}c"},
      {regex, R"((\p{L}{1,50}\s?){1,50})"},
      {regex, repeat(".?", 2000)},
      {regex, repeat("(", 2000) + "a" + repeat(")", 2000)},
      {regex, repeat("a", 1 << 20)},
      {schema, R"({"$ref": "#"})"},
      {schema, R"({"allOf": [{"$ref": "#"}, {"type": "string"}]})"},
      {schema, R"({"type": "object", "properties": {"a": {"$ref": "#"}}})"},
      {schema, repeat("{\"items\":", 10000) + "{}" + repeat("}", 10000)},
      {schema, R"({"enum": [)" + enums + "]}"},
      {schema, R"({"properties": {)" + members(5000, "{}") + "}}"},
      {schema, R"({"const": ")" + repeat("ab ", 60000) + "\"}"},
      {schema, R"({"type": "integer", "multipleOf": 1234567})"},
      {schema, R"({"type": "array", "items": {"type": "object"}, "minItems": 1000000})"},
      {schema, R"({"pattern": ")" + repeat("a?", 100000) + "\"}"},
      {ebnf, "root ::= r0\n" + doubling + "r40 ::= \"b\""},
      {ebnf, "root ::= " + repeat("(", 10000) + "\"b\"" + repeat(")", 10000)},
      {ebnf, "root ::= ((\"a\" root? \"b\"){0,10000}){0,10000}"},
      {ebnf, "root ::= root"},
      {ebnf, "root ::= root root | \"\""},
      {GrammarKind::kLark, "start: T0\n" + chain + "T3000: \"b\""},
      {GrammarKind::kLark, "start: " + repeat("(", 10000) + "\"a\"" + repeat(")", 10000)},
      {GrammarKind::kLark, "start: /" + repeat("a?", 30000) + "/"},
      {GrammarKind::kLark, R"(start: %json {"type": "integer", "multipleOf": 1234567})"},
      {GrammarKind::kLark, "start: e\ne: e e | \"a\" | e \"a\" | \"a\" e"},
      {GrammarKind::kChoice, "[" + enums.substr(0, 50000)},
  };
  for (const GrammarSource& source : sources) {
    SCOPED_TRACE(source.text.substr(0, 60));
    const std::clock_t begin = std::clock();
    const auto result = bundled().compile(source);
    if (const auto* error = std::get_if<RequestError>(&result)) {
      EXPECT_THAT(error->message, SizeIs(Le(700U)));
    } else {  // then it can be used; errors on the way are told, not thrown
      GrammarMatcher matcher(std::get<std::shared_ptr<const Grammar>>(result));
      std::vector<uint32_t> mask(bundled().mask_words());
      std::mt19937 random(5);
      for (int i = 0; i < 100 && !matcher.is_finished(); ++i) {
        if (const auto failed = matcher.compute_mask(mask)) {
          EXPECT_THAT(failed->message, SizeIs(Le(700U)));
          EXPECT_FALSE(matcher.is_accepting());
          EXPECT_FALSE(matcher.is_finished());
          EXPECT_TRUE(matcher.compute_mask(mask));
          EXPECT_TRUE(std::holds_alternative<RequestError>(matcher.accept(kBundledEos)));
          break;
        }
        const std::vector<int32_t> allowed = allowed_tokens(mask);
        static_cast<void>(matcher.accept(allowed[random() % allowed.size()]));
      }
    }
    constexpr double kSecondsOfProcessor = 20;  // generous, for sanitizers
    EXPECT_LT(static_cast<double>(std::clock() - begin), kSecondsOfProcessor * CLOCKS_PER_SEC);
  }
}

// ---- what the server writes around the schemas of tools

std::string tools_grammar(int tools, int properties) {
  const std::string options =
      R"("x-guidance":{"whitespace_flexible":true,"whitespace_pattern":" ","lenient":true})";
  std::string calls;
  std::string rules;
  for (int i = 0; i < tools; ++i) {
    std::string members;
    for (int k = 0; k < properties; ++k) {
      const char* type = std::vector<const char*>{R"({"type":"string"})", R"({"type":"integer","minimum":0})",
                                                  R"({"enum":["a","b","c d"]})",
                                                  R"({"type":"array","items":{"type":"string"}})"}[k % 4U];
      members += fmt::format("{}\"property_{}_{}\":{}", k == 0 ? "" : ",", i % 7, k, type);
    }
    rules += fmt::format(
        "call_{}: <tool_call> \"\\n{{\\\"name\\\": \\\"tool_{}\\\", \\\"arguments\\\": \" a_{} \"}}\\n\" "
        "</tool_call>\n",
        i, i, i);
    rules += fmt::format(
        "a_{}: %json "
        "{{\"type\":\"object\",\"properties\":{{{}}},\"required\":[\"property_{}_0\"],"
        "\"additionalProperties\":false,{}}}\n",
        i, members, i % 7, options);
    calls += fmt::format("{}call_{}", i == 0 ? "" : " | ", i);
  }
  return "start: call (\"\\n\" call)*\n" + rules + "call: " + calls + "\n";
}

TEST(Grammar, ManyToolsAreOneGrammar) {
  GrammarCompiler& compiler = qwen3();
  for (const auto& [tools, properties] : std::vector<std::pair<int, int>>{{128, 8}, {128, 30}, {4, 900}}) {
    const std::clock_t begin = std::clock();
    GrammarMatcher matcher(compile(compiler, GrammarKind::kWritten, tools_grammar(tools, properties)));
    std::vector<uint32_t> mask(compiler.mask_words());
    const std::string call = fmt::format(
        "<tool_call>\n{{\"name\": \"tool_{}\", \"arguments\": {{\"property_{}_0\": \"x\"}}}}\n</tool_call>",
        tools - 1, (tools - 1) % 7);
    for (const int32_t id : qwen3_tokenizer().encode(call, false)) {
      ASSERT_FALSE(matcher.compute_mask(mask));
      ASSERT_TRUE(accept(matcher, id));
    }
    EXPECT_TRUE(matcher.is_accepting());
    constexpr double kSecondsOfProcessor = 20;  // generous, for sanitizers
    EXPECT_LT(static_cast<double>(std::clock() - begin), kSecondsOfProcessor * CLOCKS_PER_SEC);
  }
}

TEST(Grammar, WhatTheServerWritesHasBoundsToo) {
  EXPECT_THAT(error_of(GrammarKind::kWritten, tools_grammar(5, 1001)),
              HasSubstr("more than 1000 properties"));
  EXPECT_THAT(error_of(GrammarKind::kWritten, tools_grammar(5, 900)), HasSubstr("more than 4000 properties"));
  EXPECT_THAT(error_of(GrammarKind::kWritten, "start: \"" + repeat("a", 1 << 20) + "\""),
              HasSubstr("at most 1048576"));
  EXPECT_THAT(error_of(GrammarKind::kWritten, R"(start: %json {"pattern": ")" + repeat("a?", 1000) + "\"}"),
              HasSubstr("more than 500 of the signs"));
  // A client's grammar keeps its own.
  EXPECT_THAT(error_of(GrammarKind::kLark, tools_grammar(128, 8)), HasSubstr("at most 65536"));
}

TEST(Grammar, ALenientSchemaLeavesOutWhatCannotBeEnforced) {
  const auto takes = [](const char* schema, std::string_view text) {
    return matches(bundled(), bundled_tokenizer(), {GrammarKind::kLenientJsonSchema, schema}, text);
  };
  EXPECT_TRUE(takes(R"({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": true})", "[1, 1]"));
  EXPECT_FALSE(takes(R"({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": true})", "[3]"));
  EXPECT_TRUE(takes(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "1.5"));
  EXPECT_THAT(error_of(GrammarKind::kJsonSchema, R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})"),
              AllOf(HasSubstr("oneOf"), testing::Not(HasSubstr("coerce"))));
}

TEST(Grammar, TellsWhichPatternsItSupports) {
  for (const char* pattern : {"^[a-z]+$", "a|b", "\\d{3}-\\w", "^(a|b)*$", "", "/", "\\u00e9"}) {
    EXPECT_FALSE(unsupported_pattern(pattern)) << pattern;
  }
  for (const std::string& pattern :
       {std::string("(?=a)b"), std::string("(?!a)b"), std::string("(?<=a)b"), std::string("\\bword"),
        std::string("(a)\\1"), std::string("(a"), repeat("a", 5000), repeat("a?", 600)}) {
    EXPECT_TRUE(unsupported_pattern(pattern)) << pattern;
  }
}

TEST(Grammar, RefusesTokensThatEndNothing) {
  const auto make = [](std::vector<int32_t> eos) {
    return GrammarCompiler(bundled_tokenizer(), kBundledVocab, eos);
  };
  for (const std::vector<int32_t>& eos : {std::vector<int32_t>{}, {4095}, {-1}, {INT32_MAX}}) {
    EXPECT_THROW(make(eos), Error);
  }
}

TEST(Grammar, AMaskOfAnotherSizeIsAnError) {
  GrammarMatcher matcher(compile(bundled(), GrammarKind::kRegex, "a+"));
  std::vector<uint32_t> mask(bundled().mask_words() - 1);
  EXPECT_TRUE(matcher.compute_mask(mask));
}

// A model may have fewer rows than its tokenizer has tokens.
TEST(Grammar, TokensBeyondTheModelAreNotAllowed) {
  GrammarCompiler compiler(bundled_tokenizer(), 1000, {{5}});
  const auto grammar = compile(compiler, GrammarKind::kRegex, "(?s).*");
  GrammarMatcher matcher(grammar);
  std::vector<uint32_t> mask(compiler.mask_words());
  ASSERT_EQ(mask.size(), 32U);
  ASSERT_FALSE(matcher.compute_mask(mask));
  EXPECT_LT(allowed_tokens(mask).back(), 1000);
  EXPECT_FALSE(accept(matcher, 1000));
}

}  // namespace
}  // namespace chorale::text
