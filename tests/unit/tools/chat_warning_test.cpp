#include "tools/chat_warning.h"

#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "source_dir.h"

namespace chorale::tools {
namespace {

using ::testing::HasSubstr;

std::string warning_of(const char* source) {
  return chat_warning(text::ChatTemplate::from_source(source, "", "")).value_or("none");
}

TEST(ChatWarning, TellsWhatKeepsAPlainChatFromItsAnswer) {
  EXPECT_EQ(chat_warning(text::ChatTemplate::load(source_dir() / "models/tales-moe")), std::nullopt);
  EXPECT_THAT(*chat_warning(std::nullopt), HasSubstr("there is no chat template"));
  for (const char* source : {"{% if %}", "{{ messages[0].content", "{% for m in messages %}"}) {
    EXPECT_THAT(warning_of(source), HasSubstr("does not parse")) << source;
  }
  for (const char* source :
       {"{{ raise_exception('never') }}", "{{ messages[7].content.strip() }}", "{{ nobody_made_this(1) }}"}) {
    EXPECT_THAT(warning_of(source), HasSubstr("fails on a plain chat")) << source;
  }
  EXPECT_EQ(warning_of("{{ messages[0].content }}"), "none");
}

}  // namespace
}  // namespace chorale::tools
