#include "apps/settings_file.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/temporary_folder.h"

namespace chorale::apps {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::vector<Setting> read(const std::string& text) {
  TemporaryFolder folder;
  folder.write("serve.yaml", text);
  return read_settings_file(folder / "serve.yaml");
}

std::string error_of(const std::string& text) {
  try {
    read(text);
  } catch (const Error& error) {
    const std::string what = error.what();
    return what.substr(std::min(what.find("serve.yaml"), what.size()));
  }
  return "none";
}

TEST(SettingsFile, HasTextsNumbersBooleansAndLists) {
  const std::vector<Setting> settings = read(
      "# a comment\n"
      "model-path: Qwen/Qwen3-30B-A3B\n"
      "port: 8000   # and one more\n"
      "disable_radix_cache: true\n"
      "\n"
      "served-model-name: [a, 'b c']\n"
      "cors-origins:\n"
      "  - https://a.org\n"
      "  - \"https://b.org\"\n"
      "api-key: \"\"\n"
      "empty: []\n");
  ASSERT_EQ(settings.size(), 7U);
  EXPECT_EQ(settings[0].key, "model-path");
  EXPECT_THAT(settings[0].values, ElementsAre("Qwen/Qwen3-30B-A3B"));
  EXPECT_EQ(settings[0].line, 2U);
  EXPECT_FALSE(settings[0].is_list);
  EXPECT_THAT(settings[1].values, ElementsAre("8000"));
  EXPECT_EQ(settings[2].key, "disable-radix-cache") << "as vLLM's files may have it";
  EXPECT_THAT(settings[2].values, ElementsAre("true"));
  EXPECT_THAT(settings[3].values, ElementsAre("a", "b c"));
  EXPECT_TRUE(settings[3].is_list);
  EXPECT_EQ(settings[3].line, 6U);
  EXPECT_THAT(settings[4].values, ElementsAre("https://a.org", "https://b.org"));
  EXPECT_EQ(settings[4].line, 7U);
  EXPECT_THAT(settings[5].values, ElementsAre(""));
  EXPECT_THAT(settings[6].values, IsEmpty());
}

TEST(SettingsFile, MayBeEmpty) {
  for (const char* text : {"", "\n", "# nothing\n", "---\n", "{}\n", "~\n"})
    EXPECT_THAT(read(text), IsEmpty()) << text;
  EXPECT_THAT(read("{port: 1, host: \"::\"}"), testing::SizeIs(2)) << "JSON is YAML";
}

TEST(SettingsFile, RefusesAllElseByItsLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"port: 1\nport: 2\n", "serve.yaml, line 2: \"port\" is given twice, first in line 1"},
      {"tp-size: 1\nhost: x\ntp_size: 2\n",
       "serve.yaml, line 3: \"tp-size\" is given twice, first in line 1"},
      {"port: 1\nhost:\n", "\"host\": expected a value, found nothing"},
      {"host: ~\n", "serve.yaml, line 1: \"host\": expected a value, found nothing"},
      {"port: 1\nserver:\n  port: 2\n", "serve.yaml, line 3: keys in another key's value"},
      {"a: [1, [2]]\n", "serve.yaml, line 1: a list in a list"},
      {"a: [{b: 1}]\n", "serve.yaml, line 1: keys in another key's value"},
      {"a: [1, ~]\n", "\"a\": expected a value, found nothing"},
      {"- port\n", "serve.yaml, line 1: expected lines of the form \"key: value\", found a list"},
      {"port\n", "serve.yaml, line 1: expected lines of the form \"key: value\""},
      {"port=8000\n", "serve.yaml, line 1: expected lines of the form \"key: value\""},
      {"a: &x 1\nb: *x\n", "serve.yaml, line 1: anchors (&name) are not taken"},
      {"a: *x\n", "serve.yaml, line 1: "},
      {"port: 1\n---\nport: 2\n", "a second document"},
      {"[a]: 1\n", "serve.yaml, line 1: "},
      {"? [a]\n: 1\n", "serve.yaml, line 1: "},
      {"port: 1\n\thost: x\n", "serve.yaml, line 2: "},
      {"a: [1, 2\n", "serve.yaml, line 1: "},
      {"a: 'x' y\n", "no YAML"},
      {"port: 1\n host: 2\n", "serve.yaml, line 2: "},
  };
  for (const auto& [text, part] : cases)
    EXPECT_THAT(error_of(text), AllOf(StartsWith("serve.yaml, line "), HasSubstr(part))) << text;
}

TEST(SettingsFile, IsBounded) {
  EXPECT_THAT(error_of(std::string((256U << 10) + 1, '#')), HasSubstr("262144"));
  EXPECT_THAT(error_of("a: " + std::string(100000, '[')), StartsWith("serve.yaml, line 1: "));
  EXPECT_THAT(error_of("a:\n" + std::string(50000, '-')), StartsWith("serve.yaml"));
  std::string many;
  for (int i = 0; i < 1001; ++i) many += fmt::format("k{}: 1\n", i);
  EXPECT_THAT(error_of(many), HasSubstr("more than 1000 keys"));
  // Billion laughs: the first anchor ends it.
  EXPECT_THAT(error_of("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"), HasSubstr("line 1: anchors"));
  EXPECT_NE(error_of(std::string("port: 1\n\0host: x\n", 17)), "");
}

TEST(SettingsFile, ThatIsNotThereIsNamed) {
  EXPECT_THROW(read_settings_file("/no/such/settings.yaml"), Error);
}

}  // namespace
}  // namespace chorale::apps
