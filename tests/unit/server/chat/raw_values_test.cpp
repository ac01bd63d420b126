#include "server/chat/raw_values.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

TEST(RawValues, APatternIsFoundInTheText) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"^abc$", "/(?:abc)/"},
      {"abc", "/(?s:.*)(?:abc)(?s:.*)/"},
      {"^a", "/(?:a)(?s:.*)/"},
      {"a$", "/(?s:.*)(?:a)/"},
      {"^a|b$|c", "/(?:a)(?s:.*)|(?s:.*)(?:b)|(?s:.*)(?:c)(?s:.*)/"},
      {"^(a|b)$", "/(?:(a|b))/"},
      {R"(^\d\w\D\W\s\$\^$)", R"(/(?:[0-9][0-9a-zA-Z_][^0-9][^0-9a-zA-Z_]\s\$\^)/)"},
      {"^[|$^/(]+$", R"(/(?:[|$^\/(]+)/)"},
      {"^[^]a]b$", R"(/(?:[^\]a]b)/)"},
      {R"(^a\/b/c$)", R"(/(?:a\/b\/c)/)"},
      {"", "/(?s:.*)(?:)(?s:.*)/"},
  };
  for (const auto& [pattern, whole] : cases) EXPECT_EQ(whole_text_pattern(pattern), whole) << pattern;
  for (const char* pattern : {"(^a)", "a^b", "(a$)", "a$b", "(?i)^a$"}) {
    EXPECT_FALSE(whole_text_pattern(pattern)) << pattern;
  }
}

std::string told(const std::string& schema, const std::string& root = "{}") {
  const RawValues values = raw_values(Json::parse(schema), Json::parse(root));
  if (values.any_text) return "any";
  std::string text;
  for (const std::string& one : values.texts) text += one + " ; ";
  for (const Json& one : values.json) text += to_text(one) + " ; ";
  return text;
}

TEST(RawValues, HoldWhatTheSchemaSaysOfStrings) {
  EXPECT_EQ(told(R"({"enum":["a \"b\"",5,null,true]})"), R"("a \"b\"" ; "5" ; "null" ; "true" ; )");
  EXPECT_EQ(told(R"({"const":"x"})"), R"("x" ; )");
  EXPECT_EQ(told(R"({"type":"string","enum":["x"]})"), R"("x" ; )");
  EXPECT_EQ(told(R"({"type":"string","maxLength":5})"), "/(?s:.{0,5})/ ; ");
  EXPECT_EQ(told(R"({"type":"string","minLength":2,"pattern":"^a+$"})"), "/(?s:.{2,})/ & /(?:a+)/ ; ");
  EXPECT_EQ(told(R"({"type":["string","null"],"maxLength":5})"),
            R"(/(?s:.{0,5})/ ; {"type":"null","maxLength":5} ; )");
  EXPECT_EQ(told(R"({"anyOf":[{"type":"string","pattern":"^a$"},{"type":"integer"}]})"),
            R"(/(?:a)/ ; {"type":"integer"} ; )");
  EXPECT_EQ(told(R"({"$ref":"#/$defs/c"})", R"({"$defs":{"c":{"enum":["r","g"]}}})"), R"("r" ; "g" ; )");
  EXPECT_EQ(told(R"({"allOf":[{"$ref":"#/$defs/c"}]})", R"({"$defs":{"c":{"enum":["r","g"]}}})"),
            R"("r" ; "g" ; )");
  EXPECT_EQ(told(R"({"type":"object"})"), R"({"type":"object"} ; )");
}

TEST(RawValues, ElseAreAnyText) {
  for (const char* schema :
       {"{}", "true", R"({"type":"string"})", R"({"anyOf":[{"type":"string"},{"type":"integer"}]})",
        R"({"$ref":"#/nowhere"})", R"x({"type":"string","pattern":"(^a)"})x",
        R"({"type":"string","format":"date"})", R"({"pattern":"^a$"})",
        R"({"allOf":[{"type":"string"},{"maxLength":5}]})"}) {
    EXPECT_EQ(told(schema), "any") << schema;
  }
  EXPECT_EQ(told(R"({"$ref":"#/$defs/a"})", R"({"$defs":{"a":{"$ref":"#/$defs/a"}}})"), "any");
}

}  // namespace
}  // namespace chorale::server
