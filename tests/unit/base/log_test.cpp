#include "base/log.h"

#include <array>
#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chorale::log {
namespace {

using ::testing::EndsWith;
using ::testing::MatchesRegex;

// What is logged while the function runs.
template <typename Function>
std::string logged(Format format, Function function) {
  set_format(format);
  ::testing::internal::CaptureStderr();
  function();
  flush();
  std::string text = ::testing::internal::GetCapturedStderr();
  set_format(Format::text);
  return text;
}

TEST(Log, JsonStringsAreValidWhateverTheBytes) {
  EXPECT_EQ(json_string(""), R"("")");
  EXPECT_EQ(json_string("a \"b\" \\ \n\t\x01\x7f"), R"("a \"b\" \\ \u000a\u0009\u0001\u007f")");
  EXPECT_EQ(json_string("\xC2\x9B"), R"("\u009b")") << "a C1 control character";
  EXPECT_EQ(json_string("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x90\x89"), "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x90\x89\"");
  const std::string bad = "\xEF\xBF\xBD";
  for (const char* text : {"\xFF", "\xC3", "\x80", "\xF5"}) EXPECT_EQ(json_string(text), '"' + bad + '"');
  EXPECT_EQ(json_string("\xC0\x80"), '"' + bad + bad + '"') << "overlong";
  EXPECT_EQ(json_string("\xED\xA0\x80"), '"' + bad + bad + bad + '"') << "a surrogate";
}

TEST(Log, TextLineHasFieldsBehindTheMessage) {
  const std::array<Field, 4> fields{{{"id", std::string_view("cmpl-1")},
                                     {"n", int64_t{3}},
                                     {"seconds", 0.25},
                                     {"note", std::string_view("two words\n")}}};
  const std::string line = logged(Format::text, [&] { write(Level::warn, "it\nended", fields); });
  EXPECT_THAT(line, EndsWith(" warning it\\nended id=cmpl-1 n=3 seconds=0.25 note=\"two words\\n\"\n"));
}

TEST(Log, JsonLineIsOneObject) {
  const std::array<Field, 3> fields{{{"id", std::string_view("a\"b")},
                                     {"n", int64_t{-1}},
                                     {"seconds", std::numeric_limits<double>::infinity()}}};
  const std::string line = logged(Format::json, [&] { write(Level::error, "it\nended", fields); });
  EXPECT_THAT(line, MatchesRegex(R"(\{"time":"[0-9]+-[0-9]+-[0-9]+T[0-9:]+\.[0-9]+Z","level":"error",)"
                                 R"("message":"it\\u000aended","id":"a\\"b","n":-1,"seconds":null\})"
                                 "\n"));
}

TEST(Log, NothingIsWrittenBelowTheLevel) {
  set_level(Level::warn);
  EXPECT_FALSE(is_enabled(Level::info));
  EXPECT_EQ(logged(Format::json, [] { info("hidden"); }), "");
  set_level(Level::info);
  EXPECT_NE(logged(Format::json, [] { info("shown {}", 1); }), "");
}

}  // namespace
}  // namespace chorale::log
