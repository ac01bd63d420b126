// Grammars for two vocabularies, and texts that are drawn from their masks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "text/grammar.h"
#include "unit/text/text_fixtures.h"

namespace chorale::text {

inline constexpr int64_t kBundledVocab = 4096;  // six rows more than the tokenizer has tokens
inline constexpr int64_t kQwen3Vocab = 151936;  // 267 rows more
inline constexpr int32_t kBundledEos = 4066;
inline constexpr int32_t kQwen3Eos[] = {151645, 151643};

inline GrammarCompiler& bundled() {
  static GrammarCompiler compiler(bundled_tokenizer(), kBundledVocab, {{kBundledEos}});
  return compiler;
}

inline GrammarCompiler& qwen3() {
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
inline void PrintTo(const Vocabulary& vocabulary, std::ostream* out) {
  *out << vocabulary.name;
}
inline const Vocabulary kVocabularies[] = {
    {"Bundled", bundled, bundled_tokenizer, kBundledVocab, {kBundledEos}},
    {"Qwen3", qwen3, qwen3_tokenizer, kQwen3Vocab, {kQwen3Eos[0], kQwen3Eos[1]}},
};

inline std::shared_ptr<const Grammar> compile(GrammarCompiler& compiler, GrammarKind kind, std::string text) {
  auto result = compiler.compile({kind, std::move(text)});
  if (const auto* error = std::get_if<RequestError>(&result)) {
    ADD_FAILURE() << error->message;
    throw std::runtime_error(error->message);
  }
  return std::get<std::shared_ptr<const Grammar>>(std::move(result));
}

inline std::string error_of(GrammarKind kind, std::string text) {
  const auto result = bundled().compile({kind, std::move(text)});
  const auto* error = std::get_if<RequestError>(&result);
  if (error == nullptr) return "no error";
  EXPECT_EQ(error->kind, RequestError::Kind::invalid);
  return error->message;
}

inline bool is_allowed(const std::vector<uint32_t>& mask, int64_t id) {
  return (mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1U) != 0;
}

inline std::vector<int32_t> allowed_tokens(const std::vector<uint32_t>& mask) {
  std::vector<int32_t> ids;
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint32_t bit = 0; mask[word] >> bit != 0; ++bit) {
      if ((mask[word] >> bit & 1U) != 0) ids.push_back(static_cast<int32_t>(word * 32 + bit));
      if (bit == 31) break;
    }
  }
  return ids;
}

inline bool accept(GrammarMatcher& matcher, int32_t id) {
  const auto result = matcher.accept(id);
  if (const auto* error = std::get_if<RequestError>(&result)) ADD_FAILURE() << error->message;
  return std::get_if<bool>(&result) != nullptr && std::get<bool>(result);
}

// Whether the tokens of the text lead to a place where it may end.
inline bool matches(GrammarCompiler& compiler, const Tokenizer& tokenizer, const GrammarSource& source,
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

inline int32_t draw(const Vocabulary& vocabulary, const std::vector<uint32_t>& mask,
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

inline Walk walk(const Vocabulary& vocabulary, const std::shared_ptr<const Grammar>& grammar, uint32_t seed) {
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

// A source, and a check of a whole text that shares nothing with the library.
struct Language {
  const char* name;
  GrammarSource source;
  std::function<bool(const std::string&)> holds;
};

inline std::function<bool(const std::string&)> matches_regex(const char* regex) {
  return [regex = std::regex(regex)](const std::string& text) { return std::regex_match(text, regex); };
}

inline std::function<bool(const std::string&)> is_json(std::function<bool(const Json&)> holds) {
  return [holds = std::move(holds)](const std::string& text) {
    const Json value = Json::parse(text, nullptr, false);
    return !value.is_discarded() && holds(value);
  };
}

inline bool is_person(const Json& value) {
  return value.is_object() && value.size() <= 3 && value.at("name").is_string() &&
         value.at("age").is_number_integer() && value["age"] >= 0 && value["age"] <= 150 &&
         (!value.contains("tags") ||
          (value["tags"].size() <= 3 &&
           std::all_of(value["tags"].begin(), value["tags"].end(), [](const Json& tag) {
             return tag == "red" || tag == "green" || tag == "blue" || tag == "a\u00E9\U0001F600";
           })));
}

inline bool is_tree(const Json& value) {
  if (!value.is_object() || !value.at("v").is_number()) return false;
  return !value.contains("c") || std::all_of(value["c"].begin(), value["c"].end(), is_tree);
}

inline bool is_balanced(const std::string& text) {
  int depth = 0;
  for (const char character : text) {
    if (character != '(' && character != ')') return false;
    depth += character == '(' ? 1 : -1;
    if (depth < 0) return false;
  }
  return depth == 0 && !text.empty();
}

inline constexpr const char* kJsonGbnf = R"g(# as in llama.cpp
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

inline std::vector<Language> languages() {
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

}  // namespace chorale::text
