#include "apps/foreign_flags.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::apps {
namespace {

TEST(ForeignFlags, SomeAreTakenAsTheyAre) {
  EXPECT_EQ(with_aliases("--model-path"), "--model-path,--model,-m");
  EXPECT_EQ(with_aliases("--port"), "--port");
  for (const char* name : {"--model", "-m", "--alias", "--max-tokens", "--n-predict"})
    EXPECT_TRUE(is_alias(name)) << name;
  for (const char* name : {"--model-path", "--", "", "-", "--mode", "--model,-m"})
    EXPECT_FALSE(is_alias(name)) << name;
}

TEST(ForeignFlags, TheRestIsHinted) {
  const std::vector<std::string> flags = {"kv-cache-dtype", "context-length", "port"};
  EXPECT_EQ(flag_hint("-ctk", flags), "; did you mean --kv-cache-dtype?");
  EXPECT_EQ(flag_hint("--ctx-size", flags, ""), "; did you mean context-length?");
  EXPECT_EQ(flag_hint("--tp", flags), "") << "a command without it";
  EXPECT_EQ(flag_hint("--prot", flags), "; did you mean --port?");
  EXPECT_NE(flag_hint("--jinja", flags).find("not needed"), std::string::npos);
  EXPECT_EQ(flag_hint("--zzzzzzzz", flags), "");
}

}  // namespace
}  // namespace chorale::apps
