#include "server/generation/json_schema.h"

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/log.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

Json parse(const std::string& text) {
  return Json::parse(text);
}

std::string ready(const std::string& schema, SchemaForm form = SchemaForm::exact) {
  return to_text(ready_schema(parse(schema), form).schema);
}

// "path keyword" of each.
std::vector<std::string> left_out(const std::string& schema, SchemaForm form = SchemaForm::exact) {
  std::vector<std::string> names;
  for (const SchemaFault& fault : ready_schema(parse(schema), form).left_out) {
    names.push_back(fault.path + " " + fault.keyword);
  }
  return names;
}

TEST(JsonSchema, WhatSaysNothingIsNotCompiled) {
  EXPECT_EQ(ready(R"({"$comment":"c","title":"T","description":"+*?{","type":"object","properties":{
                     "title":{"type":"string","title":"Title","description":"d","default":"x","examples":["y"]},
                     "default":{"type":"integer","deprecated":true,"readOnly":true,"x-order":1}},
                     "additionalProperties":false,"discriminator":{"propertyName":"k"},"x-guidance":{"a":1}})"),
            R"({"type":"object","properties":{"title":{"type":"string"},"default":{"type":"integer"}},)"
            R"("additionalProperties":false})");
}

TEST(JsonSchema, ValuesStayAsTheyAre) {
  for (const char* schema :
       {R"({"enum":[{"title":"a","properties":null},null]})", R"({"const":{"description":1}})",
        R"({"const":null})", R"({"type":["string","null"],"maxLength":5})",
        R"({"type":"array","prefixItems":[{"type":"integer"}],"items":false})", "{}"}) {
    EXPECT_EQ(ready(schema), schema);
  }
}

TEST(JsonSchema, NullIsAbsent) {
  EXPECT_EQ(
      ready(
          R"({"type":"object","properties":null,"required":null,"additionalProperties":null,"items":null})"),
      R"({"type":"object"})");
  EXPECT_EQ(
      ready(R"({"properties":{"a":null,"b":{"type":"string","format":null}},"required":["a"]})"),
      R"({"properties":{"b":{"type":"string"},"a":true},"required":["a"],"additionalProperties":false})");
}

// Every keyword of JSON Schema that is not enforced, wherever it stands.
TEST(JsonSchema, WhatCannotBeEnforcedIsLeftOutAndListed) {
  const std::vector<std::pair<const char*, const char*>> parts = {
      {"uniqueItems", R"("uniqueItems":true)"},
      {"not", R"("not":{"type":"null"})"},
      {"if", R"("if":{"type":"string"})"},
      {"contains", R"("contains":{"type":"string"})"},
      {"propertyNames", R"("propertyNames":{"pattern":"^a"})"},
      {"dependentRequired", R"("dependentRequired":{"a":["b"]})"},
      {"dependentSchemas", R"("dependentSchemas":{"a":{"required":["b"]}})"},
      {"dependencies", R"("dependencies":{"a":["b"]})"},
      {"unevaluatedItems", R"("unevaluatedItems":false)"},
      {"$dynamicRef", R"("$dynamicRef":"#a")"},
      {"format", R"("format":"path")"},
      {"format", R"("format":"binary")"},
      {"format", R"("format":"uri-reference")"},
      {"format", R"("format":"a format of my own")"},
      {"pattern", R"("pattern":"^(?=a)b")"},
      {"pattern", R"("pattern":"^(?!a).*$")"},
      {"pattern", R"("pattern":"(?<=a)b")"},
      {"pattern", R"("pattern":"\\bword\\b")"},
      {"pattern", R"("pattern":"(a)\\1")"},
      {"pattern", R"("pattern":"(a")"},
      {"$ref", R"("$ref":"https://example.com/a.json")"},
  };
  for (const auto& [keyword, part] : parts) {
    const std::string schema = fmt::format("{{{}}}", part);
    EXPECT_EQ(ready(schema), "{}") << schema;
    EXPECT_EQ(left_out(schema), std::vector<std::string>{std::string(" ") + keyword});
    EXPECT_EQ(
        left_out(
            R"({"type":"object","properties":{"a b":{"anyOf":[{"type":"null"},{"type":"array","items":)" +
            schema + "}]}}}"),
        std::vector<std::string>{std::string("properties.a b.anyOf.1.items ") + keyword});
    EXPECT_EQ(left_out(R"({"$defs":{"x":)" + schema + "}}"),
              std::vector<std::string>{std::string("$defs.x ") + keyword});
  }
  EXPECT_EQ(left_out(R"x({"patternProperties":{"^(?!x)":{"type":"string"},"^y":{}}})x"),
            std::vector<std::string>{"patternProperties patternProperties"});
  for (const char* says_nothing : {R"({"uniqueItems":false})", R"({"then":{}})", R"({"minContains":1})",
                                   R"({"unevaluatedItems":true})"}) {
    EXPECT_TRUE(left_out(says_nothing).empty()) << says_nothing;
  }
  for (const char* format :
       {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}) {
    EXPECT_TRUE(left_out(R"({"format":")" + std::string(format) + "\"}").empty()) << format;
  }
}

TEST(JsonSchema, ObjectsWithPropertiesAreClosed) {
  const auto closes = [](const std::string& schema) {
    const Json ready = ready_schema(parse(schema), SchemaForm::exact).schema;
    return ready.value("additionalProperties", Json(true)) == false;
  };
  EXPECT_TRUE(closes(R"({"type":"object","properties":{"a":{}}})"));
  EXPECT_TRUE(closes(R"({"properties":{}})"));
  EXPECT_TRUE(closes(R"({"properties":{"a":{}},"unevaluatedProperties":false})"));
  EXPECT_TRUE(closes(R"({"properties":{"a":{},"b":{}},"anyOf":[{"required":["a"]},{"required":["b"]}]})"));
  EXPECT_FALSE(closes(R"({"type":"object"})"));
  EXPECT_FALSE(closes(R"({"type":"object","properties":{"a":{}},"additionalProperties":true})"));
  EXPECT_FALSE(closes(R"({"properties":{"a":{}},"additionalProperties":{"type":"string"}})"));
  EXPECT_FALSE(closes(R"({"properties":{"a":{}},"patternProperties":{"^x":{}}})"));
  EXPECT_FALSE(closes(R"({"properties":{"a":{}},"unevaluatedProperties":true})"));
  EXPECT_FALSE(closes(R"({"properties":{"a":{}},"allOf":[{"properties":{"b":{}}}]})"));
  EXPECT_FALSE(closes(R"({"properties":{"a":{}},"$ref":"#/$defs/b","$defs":{"b":{"properties":{"b":{}}}}})"));
  EXPECT_FALSE(
      closes(R"({"properties":{"a":{}},"anyOf":[{"properties":{"b":{}}},{"properties":{"c":{}}}]})"));
}

TEST(JsonSchema, ObjectsWithinOthersAreClosed) {
  const auto count = [](const std::string& schema) {
    const std::string text = ready(schema);
    size_t found = 0;
    for (size_t at = 0; (at = text.find(R"("additionalProperties":false)", at)) != std::string::npos; ++at)
      ++found;
    return found;
  };
  const std::string object = R"({"type":"object","properties":{"a":{}}})";
  EXPECT_EQ(count(R"({"type":"array","items":)" + object + "}"), 1U);
  EXPECT_EQ(
      count(R"({"properties":{"x":)" + object + R"(,"y":{"anyOf":[)" + object + R"(,{"type":"null"}]}}})"),
      3U);
  EXPECT_EQ(count(R"({"$ref":"#/$defs/o","$defs":{"o":)" + object + "}}"), 1U);
  EXPECT_EQ(count(R"({"additionalProperties":)" + object + "}"), 1U);
  // As Pydantic 1 wraps a model that has a description.
  EXPECT_EQ(count(R"({"allOf":[{"$ref":"#/definitions/o"}],"definitions":{"o":)" + object + "}}"), 1U);
  EXPECT_EQ(count(R"({"allOf":[)" + object + "," + object + "]}"), 0U);
  EXPECT_EQ(count(R"({"allOf":[{"$ref":"#/$defs/o"},)" + object + R"(],"$defs":{"o":)" + object + R"(,"p":)" +
                  object + "}}"),
            1U);
  EXPECT_EQ(count(R"({"$defs":{"n":{"properties":{"next":{"$ref":"#/$defs/n"}}}},"$ref":"#/$defs/n"})"), 1U);
}

// Else nothing could match.
TEST(JsonSchema, WhatIsRequiredButNotDescribedMayBeAnything) {
  EXPECT_EQ(
      ready(R"({"properties":{"a":{"type":"null"}},"required":["a","b"]})"),
      R"({"properties":{"a":{"type":"null"},"b":true},"required":["a","b"],"additionalProperties":false})");
}

// It stays, for the engine to refuse.
TEST(JsonSchema, TheMalformedDoesNoHarm) {
  for (const char* schema :
       {R"({"properties":["a"],"required":["b"]})", R"({"properties":5,"required":["b"]})",
        R"({"allOf":{"a":{}},"anyOf":5,"oneOf":[1,"x"],"$ref":7,"items":"a","required":{"a":1}})",
        R"({"patternProperties":[],"enum":{},"$defs":[{}],"pattern":{},"format":[]})"}) {
    ready(schema);
    ready(schema, SchemaForm::forgiving);
  }
}

TEST(JsonSchema, WhatIsReferredToStays) {
  const std::string schema =
      R"({"$ref":"#/components/schemas/a","components":{"schemas":{"a":{"type":"string"}}}})";
  EXPECT_EQ(ready(schema), schema);
  EXPECT_EQ(
      ready(
          R"({"$ref":"#/components/schemas/a","components":{"schemas":{"a":{"title":"x"},"b":{}},"more":1}})"),
      R"({"$ref":"#/components/schemas/a","components":{"schemas":{"a":{}}}})");
  EXPECT_EQ(ready(R"({"$ref":"#"})"), R"({"$ref":"#"})");
}

TEST(JsonSchema, TheMalformedIsForgivenWhereThatIsAskedFor) {
  for (const char* schema :
       {R"({"type":"any"})", R"({"type":["string","str"]})", R"({"required":true})",
        R"({"properties":["a"]})", R"({"items":"string"})", R"({"enum":[]})", R"({"enum":"a"})",
        R"({"minLength":"5"})", R"({"minItems":-1})", R"({"anyOf":[]})", R"({"$ref":"#/nowhere"})",
        R"({"pattern":5})", R"({"maximum":"5"})"}) {
    EXPECT_EQ(ready(schema, SchemaForm::forgiving), "{}") << schema;
    EXPECT_EQ(left_out(schema, SchemaForm::forgiving).size(), 1U) << schema;
    EXPECT_TRUE(left_out(schema).empty()) << schema;
  }
}

TEST(JsonSchema, AStrictOneNamesWhatItWants) {
  const auto faults =
      ready_schema(parse(R"({"properties":{"tags":{"type":"array","uniqueItems":true}}})"), SchemaForm::exact)
          .left_out;
  log::set_level(log::Level::error);
  tell_left_out(faults, false, "the tool 'save'", "tools[0]");
  try {
    tell_left_out(faults, true, "the tool 'save'", "tools[0].function.parameters");
    FAIL();
  } catch (const BadRequest& bad) {
    EXPECT_EQ(bad.answer().param, "tools[0].function.parameters");
    EXPECT_EQ(
        bad.answer().message,
        "'uniqueItems' of the tool 'save', at 'properties.tags' cannot be enforced, but 'strict' is true");
  }
}

}  // namespace
}  // namespace chorale::server
