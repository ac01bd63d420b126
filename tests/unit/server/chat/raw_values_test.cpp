#include "server/chat/raw_values.h"

#include <regex>
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
  // Anchors in groups that are whole alternatives.
  const std::vector<std::pair<std::string, std::string>> grouped = {
      {"(^ab$)|(^cd$)", "/(?:ab)|(?:cd)/"}, {"(?:^a|b$)", "/(?:a)(?s:.*)|(?s:.*)(?:b)/"},
      {"^(a$|b)$", "/(?:a)|(?:b)/"},        {"((^a[)]$)|^b)", R"(/(?:a[)])|(?:b)(?s:.*)/)"},
      {"^(^a)", "/(?:a)(?s:.*)/"},
  };
  for (const auto& [pattern, whole] : grouped) EXPECT_EQ(whole_text_pattern(pattern), whole) << pattern;
  for (const char* pattern : {"x(^a)", "a^b", "(a$)x", "a$b", "(?i)^a$", "(^a)+"}) {
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
        R"({"$ref":"#/nowhere"})", R"x({"type":"string","pattern":"(^a)+"})x",
        R"({"type":"string","format":"path"})", R"({"pattern":"^a$"})",
        R"({"allOf":[{"type":"string"},{"maxLength":5}]})"}) {
    EXPECT_EQ(told(schema), "any") << schema;
  }
  EXPECT_EQ(told(R"({"$ref":"#/$defs/a"})", R"({"$defs":{"a":{"$ref":"#/$defs/a"}}})"), "any");
}

struct Format {
  std::string name;
  std::vector<std::string> good;
  std::vector<std::string> bad;
};

TEST(RawValues, HoldTheFormatsOfStrings) {
  const std::string uuid = "123e4567-e89b-12d3-a456-426614174000";
  const std::vector<Format> formats = {
      {"date",
       {"2024-02-29"},
       {"2024-13-01", "2024-00-10", "24-01-01", "2024-01-32", "2024-1-1", "x2024-01-01"}},
      {"time", {"23:59:59Z", "01:02:03.25+05:30"}, {"24:00:00Z", "01:02:03", "1:02:03Z"}},
      {"date-time", {"2024-02-29T01:02:03Z"}, {"2024-02-29", "2024-02-29 01:02:03Z", "2024-02-29T01:02:03"}},
      {"duration", {"P3D", "PT5M", "P1Y2M3DT4H5M6S", "P4W", "P1DT1S"}, {"P", "PT", "P1DT", "3D", "P1S"}},
      {"email", {"a.b@example.org", "x+y@a-b.c"}, {"a", "a@", "@b", "a@b@c", "a@-b"}},
      {"hostname", {"a", "a-b.example.org"}, {"-a", "a-", "a..b", "", "a b"}},
      {"ipv4", {"0.0.0.0", "255.249.1.10"}, {"256.1.1.1", "1.1.1", "01.1.1.1"}},
      {"ipv6",
       {"::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "::ffff:1.2.3.4",
        "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6::8"},
       {"", ":", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "1::2::3", "12345::", "g::"}},
      {"uuid", {uuid}, {uuid + "0", "123e4567e89b12d3a456426614174000"}},
      {"uri",
       {"https://a.org/b?c=d#e", "mailto:a@b", "urn:x:%20"},
       {"a/b", "://a", "1a:b", "a:b c", "a:b#c#d"}}};
  for (const Format& format : formats) {
    const RawValues values = raw_values({{"type", "string"}, {"format", format.name}}, Json::object());
    ASSERT_EQ(values.texts.size(), 1U) << format.name;
    const std::string& text = values.texts.front();
    const std::regex expression(text.substr(1, text.size() - 2));
    for (const std::string& good : format.good)
      EXPECT_TRUE(std::regex_match(good, expression)) << format.name << ": " << good;
    for (const std::string& bad : format.bad)
      EXPECT_FALSE(std::regex_match(bad, expression)) << format.name << ": " << bad;
  }
  EXPECT_EQ(told(R"({"type":"string","format":"date","maxLength":9})").substr(0, 20), "/(?s:.{0,9})/ & /(?:");
  EXPECT_EQ(told(R"({"type":"string","format":"path"})"), "any");
}

}  // namespace
}  // namespace chorale::server
