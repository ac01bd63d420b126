#include "tools/simulate/rate_profile.h"

#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace chorale::simulate {
namespace {

using testing::HasSubstr;

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(RateProfile, AConstantRateIsAStraightLine) {
  const RateProfile profile = RateProfile::parse("4");
  EXPECT_EQ(profile.time_of(0), 0);
  EXPECT_EQ(profile.time_of(10), 2.5);
  EXPECT_EQ(profile.period(), 0);
  EXPECT_EQ(RateProfile::parse("inf").time_of(1e9), 0);
}

// 0 to 2 over 10 seconds are 10 requests; then 20 at 2; then it begins anew.
TEST(RateProfile, IntegratesAFile) {
  const RateProfile profile = RateProfile::parse_file("# seconds rate\n0 0\n10, 2\n\n20 2 # end\n", "FILE");
  EXPECT_EQ(profile.period(), 20);
  EXPECT_EQ(profile.time_of(0), 0);
  EXPECT_DOUBLE_EQ(profile.time_of(2.5), 5);
  EXPECT_DOUBLE_EQ(profile.time_of(10), 10);
  EXPECT_DOUBLE_EQ(profile.time_of(20), 15);
  EXPECT_DOUBLE_EQ(profile.time_of(32.5), 25);
}

TEST(RateProfile, ADayGoesUpAndDown) {
  const RateProfile profile = RateProfile::parse("day:2..10");
  EXPECT_EQ(profile.period(), 86400);
  // 6 per second on average, half of them before noon, fewer before 6 o'clock than after it.
  const double all = 6.0 * 86400;
  EXPECT_NEAR(profile.time_of(all / 2), 43200, 1e-6);
  EXPECT_GT(profile.time_of(all / 4), 6 * 3600);
  EXPECT_NEAR(profile.time_of(all * 1.5), 86400 + 43200, 1e-6);
}

TEST(RateProfile, TimeNeverGoesBack) {
  for (const char* text : {"day:0..3", "day:5..5"}) {
    const RateProfile profile = RateProfile::parse(text);
    double before = 0;
    for (double requests = 0; requests < 1e6; requests += 997) {
      const double time = profile.time_of(requests);
      ASSERT_GE(time, before) << text << " at " << requests;
      before = time;
    }
  }
}

TEST(RateProfile, TellsWhatIsWrong) {
  for (const char* text : {"0", "-1", "nan", "day:", "day:1", "day:3..2", "day:0..0", "day:-1..2", "no/file"})
    EXPECT_THAT(error_of([&] { RateProfile::parse(text); }), HasSubstr("--rate: expected")) << text;
  const auto of_file = [](const char* text) {
    return error_of([&] { RateProfile::parse_file(text, "--rate FILE"); });
  };
  EXPECT_THAT(of_file("0 1\n1 x\n"), HasSubstr("--rate FILE, line 2: expected SECONDS RATE"));
  EXPECT_THAT(of_file("0 1\n1 2 3\n"), HasSubstr("line 2"));
  EXPECT_THAT(of_file("0 1\n"), HasSubstr("--rate FILE: expected two points"));
  EXPECT_THAT(of_file("1 1\n2 1\n"), HasSubstr("first is at 0"));
  EXPECT_THAT(of_file("0 1\n0 1\n"), HasSubstr("ascend"));
  EXPECT_THAT(of_file("0 1\n1 -1\n"), HasSubstr("found -1"));
  EXPECT_THAT(of_file("0 0\n1 0\n"), HasSubstr("0 throughout"));
}

}  // namespace
}  // namespace chorale::simulate
