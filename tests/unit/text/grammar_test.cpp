#include "text/grammar.h"

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <functional>
#include <map>
#include <random>
#include <regex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/text/text_fixtures.h"

namespace chorale::text {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Le;
using testing::SizeIs;

constexpr int64_t kBundledVocab = 4096;  // six rows more than the tokenizer has tokens
constexpr int64_t kQwen3Vocab = 151936;  // 267 rows more
constexpr int32_t kBundledEos = 4066;
constexpr int32_t kQwen3Eos[] = {151645, 151643};

GrammarCompiler& bundled() {
  static GrammarCompiler compiler(bundled_tokenizer(), kBundledVocab, {{kBundledEos}});
  return compiler;
}

GrammarCompiler& qwen3() {
  static GrammarCompiler compiler(qwen3_tokenizer(), kQwen3Vocab, kQwen3Eos);
  return compiler;
}

// A vocabulary, by which tests are parameterized.
struct Vocabulary {
  const char* name;
  GrammarCompiler& (*compiler)();
  const Tokenizer& (*tokenizer)();
  int64_t size;
  std::vector<int32_t> eos;
};
void PrintTo(const Vocabulary& vocabulary, std::ostream* out) {
  *out << vocabulary.name;
}
const Vocabulary kVocabularies[] = {
    {"Bundled", bundled, bundled_tokenizer, kBundledVocab, {kBundledEos}},
    {"Qwen3", qwen3, qwen3_tokenizer, kQwen3Vocab, {kQwen3Eos[0], kQwen3Eos[1]}},
};

std::shared_ptr<const Grammar> compile(GrammarCompiler& compiler, GrammarKind kind, std::string text) {
  auto result = compiler.compile({kind, std::move(text)});
  if (const auto* error = std::get_if<RequestError>(&result)) {
    ADD_FAILURE() << error->message;
    throw std::runtime_error(error->message);
  }
  return std::get<std::shared_ptr<const Grammar>>(std::move(result));
}

std::string error_of(GrammarKind kind, std::string text) {
  const auto result = bundled().compile({kind, std::move(text)});
  const auto* error = std::get_if<RequestError>(&result);
  if (error == nullptr) return "no error";
  EXPECT_EQ(error->kind, RequestError::Kind::invalid);
  return error->message;
}

bool is_allowed(const std::vector<uint32_t>& mask, int64_t id) {
  return (mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1U) != 0;
}

std::vector<int32_t> allowed_tokens(const std::vector<uint32_t>& mask) {
  std::vector<int32_t> ids;
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint32_t bit = 0; mask[word] >> bit != 0; ++bit) {
      if ((mask[word] >> bit & 1U) != 0) ids.push_back(static_cast<int32_t>(word * 32 + bit));
      if (bit == 31) break;
    }
  }
  return ids;
}

bool accept(GrammarMatcher& matcher, int32_t id) {
  const auto result = matcher.accept(id);
  if (const auto* error = std::get_if<RequestError>(&result)) ADD_FAILURE() << error->message;
  return std::get_if<bool>(&result) != nullptr && std::get<bool>(result);
}

// Whether the tokens of the text lead to a place where it may end.
bool matches(GrammarCompiler& compiler, const Tokenizer& tokenizer, const GrammarSource& source,
             std::string_view text) {
  GrammarMatcher matcher(compile(compiler, source.kind, source.text));
  for (const int32_t id : tokenizer.encode(text, false)) {
    if (!accept(matcher, id)) return false;
  }
  return matcher.is_accepting();
}

// One text that follows the grammar, by tokens that are drawn from the masks. After `hurry` tokens those come
// first that let the text end.
struct Walk {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<std::vector<uint32_t>> masks;
  bool ended = false;
};

int32_t draw(const Vocabulary& vocabulary, const std::vector<uint32_t>& mask,
             const std::vector<int32_t>& allowed, size_t step, std::mt19937& random) {
  constexpr size_t kHurry = 24;
  if (step > kHurry) {
    if (is_allowed(mask, vocabulary.eos[0])) return vocabulary.eos[0];
    for (const char* closing : {"\"", "}", "]", ")"}) {
      const int32_t id = vocabulary.tokenizer().token_to_id(closing).value();
      if (is_allowed(mask, id)) return id;
    }
  }
  return allowed[random() % allowed.size()];
}

Walk walk(const Vocabulary& vocabulary, const std::shared_ptr<const Grammar>& grammar, uint32_t seed) {
  constexpr size_t kMaxSteps = 200;
  std::mt19937 random(seed);
  GrammarMatcher matcher(grammar);
  Walk walk;
  std::vector<uint32_t> mask(vocabulary.compiler().mask_words(), ~uint32_t{0});
  while (walk.tokens.size() < kMaxSteps) {
    if (const auto error = matcher.compute_mask(mask)) {
      ADD_FAILURE() << error->message << " after " << walk.text;
      return walk;
    }
    walk.masks.push_back(mask);
    const std::vector<int32_t> allowed = allowed_tokens(mask);
    EXPECT_FALSE(allowed.empty());
    EXPECT_LT(allowed.back(), vocabulary.tokenizer().vocab_size());
    for (const int32_t eos : vocabulary.eos) {
      EXPECT_EQ(is_allowed(mask, eos), matcher.is_accepting()) << walk.text;
    }
    const int32_t id = draw(vocabulary, mask, allowed, walk.tokens.size(), random);
    EXPECT_TRUE(accept(matcher, id)) << id << " after " << walk.text;
    walk.tokens.push_back(id);
    if (std::count(vocabulary.eos.begin(), vocabulary.eos.end(), id) != 0) {
      EXPECT_TRUE(matcher.is_finished());
      walk.ended = true;
      return walk;
    }
    walk.text += vocabulary.tokenizer().token_bytes(id);
  }
  return walk;
}

// ---- texts that the grammar lets through are of it

// A source, and a check of a whole text that shares nothing with the library.
struct Language {
  const char* name;
  GrammarSource source;
  std::function<bool(const std::string&)> holds;
};

std::function<bool(const std::string&)> matches_regex(const char* regex) {
  return [regex = std::regex(regex)](const std::string& text) { return std::regex_match(text, regex); };
}

std::function<bool(const std::string&)> is_json(std::function<bool(const Json&)> holds) {
  return [holds = std::move(holds)](const std::string& text) {
    const Json value = Json::parse(text, nullptr, false);
    return !value.is_discarded() && holds(value);
  };
}

bool is_person(const Json& value) {
  return value.is_object() && value.size() <= 3 && value.at("name").is_string() &&
         value.at("age").is_number_integer() && value["age"] >= 0 && value["age"] <= 150 &&
         (!value.contains("tags") ||
          (value["tags"].size() <= 3 &&
           std::all_of(value["tags"].begin(), value["tags"].end(), [](const Json& tag) {
             return tag == "red" || tag == "green" || tag == "blue" || tag == "a\u00E9\U0001F600";
           })));
}

bool is_tree(const Json& value) {
  if (!value.is_object() || !value.at("v").is_number()) return false;
  return !value.contains("c") || std::all_of(value["c"].begin(), value["c"].end(), is_tree);
}

bool is_balanced(const std::string& text) {
  int depth = 0;
  for (const char character : text) {
    if (character != '(' && character != ')') return false;
    depth += character == '(' ? 1 : -1;
    if (depth < 0) return false;
  }
  return depth == 0 && !text.empty();
}

constexpr const char* kJsonGbnf = R"g(# as in llama.cpp
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
)g";

std::vector<Language> languages() {
  const auto schema = GrammarKind::kJsonSchema;
  const auto ebnf = GrammarKind::kEbnf;
  const auto regex = GrammarKind::kRegex;
  std::vector<Language> all;
  const auto add = [&](const char* name, GrammarKind kind, const char* source,
                       std::function<bool(const std::string&)> holds) {
    all.push_back({name, {kind, source}, std::move(holds)});
  };
  add("Person", schema,
      R"({"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
          "age": {"type": "integer", "minimum": 0, "maximum": 150},
          "tags": {"type": "array", "maxItems": 3, "items": {"enum": ["red", "green", "blue", "a\u00E9\ud83d\ude00"]}}},
          "required": ["name", "age"], "additionalProperties": false})",
      is_json(is_person));
  add("Tree", schema,
      R"({"$defs": {"tree": {"type": "object", "properties": {"v": {"type": "number"},
          "c": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
          "required": ["v"], "additionalProperties": false}}, "$ref": "#/$defs/tree"})",
      is_json(is_tree));
  add("Choices", schema,
      R"({"anyOf": [{"type": "null"}, {"type": "boolean"}, {"const": {"a": [1, "x"]}},
                    {"type": "string", "pattern": "^[a-f]{2,4}$"}]})",
      is_json([](const Json& value) {
        static const std::regex pattern("[a-f]{2,4}");
        return value.is_null() || value.is_boolean() || value == Json::parse(R"({"a": [1, "x"]})") ||
               (value.is_string() && std::regex_match(value.get<std::string>(), pattern));
      }));
  add("Object", GrammarKind::kJsonObject, "", is_json([](const Json& value) { return value.is_object(); }));
  add("Date", regex, "^[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]$",
      matches_regex("[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]"));
  add("Words", regex, "([a-z]{1,8} ){2,5}end", matches_regex("([a-z]{1,8} ){2,5}end"));
  add("Unicode", regex, "(\u00E9|\u4F60\u597D|\U0001F600){3}",
      matches_regex("(\u00E9|\u4F60\u597D|\U0001F600){3}"));
  add("Choice", GrammarKind::kChoice, R"(["yes", "no", "yes and no", "\"quoted\"\n\\", "<|im_end|>"])",
      [](const std::string& text) {
        return text == "yes" || text == "no" || text == "yes and no" || text == "\"quoted\"\n\\" ||
               text == "<|im_end|>";
      });
  add("Gbnf", ebnf, kJsonGbnf, is_json([](const Json& value) { return value.is_object(); }));
  add("GbnfRegular", ebnf, "root ::= [a-z]{0,5} \"end\" num?\nnum ::= \"-\"? [1-9] [0-9]{0,2}",
      matches_regex("[a-z]{0,5}end(-?[1-9][0-9]{0,2})?"));
  add("GbnfBalanced", ebnf, R"g(root ::= ("(" root? ")")+)g", is_balanced);
  add("Lark", ebnf, "start: (\"(\" start? \")\")+", is_balanced);
  add("LarkTerminals", GrammarKind::kLark, "start: WORD (\", \" WORD)*\nWORD: /[a-z]{1,5}/",
      matches_regex("[a-z]{1,5}(, [a-z]{1,5})*"));
  return all;
}

class GrammarWalk : public testing::TestWithParam<Vocabulary> {};

TEST_P(GrammarWalk, EndsInATextOfTheLanguage) {
  for (const Language& language : languages()) {
    SCOPED_TRACE(language.name);
    const auto grammar = compile(GetParam().compiler(), language.source.kind, language.source.text);
    size_t ended = 0;
    const uint32_t walks = GetParam().size == kBundledVocab ? 12 : 4;
    for (uint32_t seed = 0; seed < walks; ++seed) {
      const Walk result = walk(GetParam(), grammar, seed);
      if (!result.ended) continue;  // nested without end
      ++ended;
      EXPECT_TRUE(language.holds(result.text)) << result.text;
    }
    EXPECT_GE(ended, walks / 2);
  }
}

TEST_P(GrammarWalk, ASecondMatcherThatAcceptsTheSameTokensHasTheSameMasks) {
  for (const Language& language : languages()) {
    SCOPED_TRACE(language.name);
    const auto grammar = compile(GetParam().compiler(), language.source.kind, language.source.text);
    const Walk first = walk(GetParam(), grammar, 7);
    GrammarMatcher replay(grammar);
    std::vector<uint32_t> mask(GetParam().compiler().mask_words());
    for (size_t i = 0; i < first.tokens.size(); ++i) {
      if (i % 3 == 0) {  // masks that nobody asked for change nothing
        ASSERT_FALSE(replay.compute_mask(mask));
        ASSERT_EQ(mask, first.masks[i]) << i;
      }
      ASSERT_TRUE(accept(replay, first.tokens[i]));
    }
  }
}

TEST_P(GrammarWalk, WhatTheMaskForbidsIsNotAcceptedAndChangesNothing) {
  const auto grammar = compile(GetParam().compiler(), GrammarKind::kRegex, "[0-9]{3}-[a-z]{2}");
  GrammarMatcher matcher(grammar);
  std::vector<uint32_t> mask(GetParam().compiler().mask_words());
  std::vector<uint32_t> again(mask.size());
  std::mt19937 random(3);
  while (!matcher.is_finished()) {
    ASSERT_FALSE(matcher.compute_mask(mask));
    for (int i = 0; i < 200; ++i) {
      const auto id = static_cast<int32_t>(random() % static_cast<uint32_t>(GetParam().size));
      if (!is_allowed(mask, id)) {
        ASSERT_FALSE(accept(matcher, id)) << id;
      }
    }
    for (const int64_t id : {GetParam().tokenizer().vocab_size(), GetParam().size - 1, GetParam().size,
                             int64_t{INT32_MAX}, int64_t{-1}, int64_t{INT32_MIN}}) {
      ASSERT_FALSE(accept(matcher, static_cast<int32_t>(id))) << id;
    }
    ASSERT_FALSE(matcher.compute_mask(again));
    ASSERT_EQ(mask, again);
    const std::vector<int32_t> allowed = allowed_tokens(mask);
    ASSERT_TRUE(accept(matcher, allowed[random() % allowed.size()]));
  }
  ASSERT_FALSE(matcher.compute_mask(mask));
  EXPECT_EQ(allowed_tokens(mask).size(), GetParam().eos.size());
  EXPECT_TRUE(accept(matcher, GetParam().eos.back()));
  EXPECT_TRUE(matcher.is_finished());
}

INSTANTIATE_TEST_SUITE_P(All, GrammarWalk, testing::ValuesIn(kVocabularies),
                         [](const auto& test) { return std::string(test.param.name); });

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

// ---- many grammars, many threads

TEST(GrammarCache, KeepsTheOnesUsedLastWithinItsBounds) {
  GrammarCompiler compiler(bundled_tokenizer(), kBundledVocab, {{kBundledEos}},
                           GrammarCompiler::CacheLimits{3, 100});
  const auto get = [&](std::string text) { return compile(compiler, GrammarKind::kRegex, std::move(text)); };
  const auto first = get("a");
  EXPECT_EQ(get("a"), first);
  EXPECT_NE(compile(compiler, GrammarKind::kChoice, "[\"a\"]"), first);
  get("b");
  EXPECT_EQ(get("a"), first);  // used last, so the choice goes
  get("c");
  EXPECT_EQ(compiler.cache_use().grammars, 3U);
  EXPECT_EQ(compiler.cache_use().source_bytes, 3U);
  EXPECT_EQ(get("a"), first);
  EXPECT_EQ(compiler.cache_use().hits, 3U);
  EXPECT_EQ(compiler.cache_use().misses, 4U);

  get(std::string(99, 'x'));
  EXPECT_EQ(compiler.cache_use().grammars, 2U);
  EXPECT_EQ(compiler.cache_use().source_bytes, 100U);
  get(std::string(101, 'x'));  // larger than all of the cache
  EXPECT_EQ(compiler.cache_use().source_bytes, 100U);
  EXPECT_EQ(get("a"), first);

  const auto object = compile(compiler, GrammarKind::kJsonObject, "");
  EXPECT_EQ(compile(compiler, GrammarKind::kJsonObject, "{}"), object);
}

TEST(GrammarCache, ThreadsShareOneCompiler) {
  const Vocabulary& vocabulary = kVocabularies[0];
  const std::vector<Language> all = languages();
  std::vector<Walk> expected;
  for (const Language& language : all) {
    expected.push_back(walk(vocabulary, compile(bundled(), language.source.kind, language.source.text), 1));
  }
  GrammarCompiler compiler(bundled_tokenizer(), kBundledVocab, {{kBundledEos}},
                           GrammarCompiler::CacheLimits{4, 10000});
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < all.size(); ++i) {
        const size_t k = (i + t / 2) % all.size();
        const auto grammar = compile(compiler, all[k].source.kind, all[k].source.text);
        const Walk result = walk(vocabulary, grammar, 1);
        EXPECT_EQ(result.tokens, expected[k].tokens);
        EXPECT_EQ(result.masks, expected[k].masks);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(compiler.cache_use().grammars, Le(4U));
}

TEST(GrammarCache, MatchersOutliveTheCompiler) {
  auto compiler = std::make_unique<GrammarCompiler>(bundled_tokenizer(), kBundledVocab,
                                                    std::vector<int32_t>{kBundledEos});
  GrammarMatcher matcher(compile(*compiler, GrammarKind::kRegex, "[a-z]{3}"));
  std::vector<uint32_t> mask(compiler->mask_words());
  compiler.reset();
  ASSERT_FALSE(matcher.compute_mask(mask));
  ASSERT_TRUE(accept(matcher, allowed_tokens(mask).front()));
  GrammarMatcher moved = std::move(matcher);
  EXPECT_FALSE(moved.compute_mask(mask));
}

}  // namespace
}  // namespace chorale::text
