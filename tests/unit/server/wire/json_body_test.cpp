#include "server/wire/json_body.h"

#include <string>

#include <gtest/gtest.h>

#include "server/wire/bad_request.h"
#include "server/wire/fields.h"

namespace chorale::server {
namespace {

ErrorAnswer error_of(const std::string& text, const JsonBodyLimits& limits = {}) {
  try {
    parse_json_body(text, limits);
  } catch (const BadRequest& bad) {
    return bad.answer();
  }
  return {.status = 200, .message = "was accepted"};
}

TEST(JsonBody, KeepsTheOrderOfKeys) {
  EXPECT_EQ(to_text(parse_json_body(R"({"z":1,"a":{"y":[1,2.5,null,true],"b":"x"}})")),
            R"({"z":1,"a":{"y":[1,2.5,null,true],"b":"x"}})");
}

TEST(JsonBody, RefusesWhatIsNotOneObject) {
  for (const char* text : {"", "{", "[]", "1", "\"x\"", "null", "{} {}", "{\"a\":1,}", "{'a':1}",
                           "{\"a\":NaN}", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}", "{\"a\":01}", "nonsense"}) {
    const ErrorAnswer error = error_of(text);
    EXPECT_EQ(error.status, 400) << text;
    EXPECT_NE(error.message.find("the request body"), std::string::npos) << error.message;
  }
}

TEST(JsonBody, RefusesInvalidUtf8AndNul) {
  EXPECT_EQ(error_of("{\"a\":\"\xff\"}").status, 400);
  EXPECT_EQ(error_of("{\"a\":\"\xc3\"}").status, 400);
  EXPECT_EQ(error_of("{\"a\":\"\xed\xa0\x80\"}").status, 400);
  EXPECT_EQ(error_of(std::string("{}\0", 3)).status, 400);
  EXPECT_EQ(error_of(std::string("{}\0{\"a\":1}", 10)).status, 400);
}

TEST(JsonBody, NamesADuplicateKey) {
  const ErrorAnswer error = error_of(R"({"a":1,"b":{"a":2},"a":3})");
  EXPECT_EQ(error.param, "a");
  EXPECT_NE(error.message.find("twice"), std::string::npos);
}

TEST(JsonBody, BoundsDepthAndNumberOfValues) {
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  EXPECT_NE(error_of(deep).message.find("deeper than 64"), std::string::npos);
  std::string within = "{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}";
  EXPECT_EQ(error_of(within).status, 200);
  EXPECT_NE(error_of("{\"a\":[1,2,3]}", {.max_depth = 4, .max_values = 4}).message.find("more than 4"),
            std::string::npos);
  EXPECT_EQ(error_of("{\"a\":[1,2]}", {.max_depth = 4, .max_values = 4}).status, 200);
}

TEST(JsonBody, WritesInvalidUtf8AsReplacementCharacters) {
  EXPECT_EQ(to_text(Json("a\xff\xc3")), "\"a\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

TEST(JsonBody, CutsTextAtCharacters) {
  EXPECT_EQ(cut_text("abcdef", 3), "abc...");
  EXPECT_EQ(cut_text("ab\xC3\xA9", 3), "ab...");
  EXPECT_EQ(cut_text("ab\xC3\xA9", 4), "ab\xC3\xA9");
}

ErrorAnswer field_error(const std::string& text, const std::function<void(Fields&)>& read) {
  const Json body = parse_json_body(text);
  try {
    Fields fields(body, "p");
    read(fields);
    fields.finish();
  } catch (const BadRequest& bad) {
    return bad.answer();
  }
  return {.status = 200, .message = "was accepted"};
}

TEST(Fields, NullCountsAsAbsent) {
  const Json body = parse_json_body(R"({"a":null,"b":2.0,"c":"x"})");
  Fields fields(body, "");
  EXPECT_FALSE(fields.integer("a", 0, 9));
  EXPECT_EQ(fields.integer("b", 0, 9), 2);
  EXPECT_EQ(fields.string("c"), "x");
  EXPECT_FALSE(fields.boolean("d"));
  fields.finish();
}

TEST(Fields, NamesTheFieldThatIsWrong) {
  const auto read = [](Fields& fields) {
    fields.integer("i", -1, 10);
    fields.number("x", 0, 2);
    fields.boolean("b");
    fields.string("s");
    fields.refuse("r", "no", {false, 1});
    fields.accept({"any"});
  };
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"i":11})", "p.i"},   {R"({"i":-2})", "p.i"},   {R"({"i":1.5})", "p.i"},
      {R"({"i":"1"})", "p.i"},  {R"({"i":true})", "p.i"}, {R"({"i":18446744073709551615})", "p.i"},
      {R"({"i":1e30})", "p.i"}, {R"({"x":2.1})", "p.x"},  {R"({"x":"1"})", "p.x"},
      {R"({"b":1})", "p.b"},    {R"({"s":1})", "p.s"},    {R"({"r":true})", "p.r"},
      {R"({"r":[]})", "p.r"}};
  for (const auto& [text, param] : cases) {
    const ErrorAnswer error = field_error(text, read);
    EXPECT_EQ(error.status, 400) << text;
    EXPECT_EQ(error.param, param) << text;
    EXPECT_NE(error.message.find(param), std::string::npos) << error.message;
  }
  for (const char* text : {R"({"i":10,"x":2,"b":false,"s":"","r":false,"any":[1]})", R"({"r":1,"what":0})"}) {
    EXPECT_EQ(field_error(text, read).status, 200) << field_error(text, read).message;
  }
}

TEST(Fields, ReadsTokenIds) {
  const Json ids = parse_json_body(R"({"a":[0,9],"b":[10],"c":[-1],"d":["x"],"e":7})");
  EXPECT_EQ(to_token_ids(ids["a"], "a", 10), (std::vector<int32_t>{0, 9}));
  for (const char* bad : {"b", "c", "d"}) {
    try {
      to_token_ids(ids[bad], bad, 10);
      ADD_FAILURE() << bad;
    } catch (const BadRequest& error) {
      EXPECT_EQ(error.answer().param, std::string(bad) + "[0]");
    }
  }
  EXPECT_THROW(to_token_ids(ids["e"], "e", 10), BadRequest);
}

}  // namespace
}  // namespace chorale::server
