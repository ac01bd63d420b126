#include "tools/simulate/windows.h"

#include <gtest/gtest.h>

namespace chorale::simulate {
namespace {

using std::chrono::milliseconds;

TEST(Windows, GrowWithTheTimeAndLoseNothing) {
  Windows windows;
  int64_t count = 0;
  for (const int64_t time : {0, 3, 47, 48, 200, 1000, 5000, 60'000, 3'600'000, 86'400'000}) {
    ++windows.at(milliseconds(time)).arrived;
    ++count;
    int64_t sum = 0;
    for (const Window& window : windows.all()) sum += window.arrived;
    EXPECT_EQ(sum, count) << time;
    EXPECT_LE(windows.all().size(), Windows::kMost) << time;
  }
  EXPECT_EQ(windows.length(), 3600);
  EXPECT_EQ(windows.all().front().arrived, 8);
  EXPECT_EQ(windows.all().back().arrived, 1);
}

TEST(Windows, SharesASpanAmongThoseThatItTouches) {
  Windows windows;
  windows.at(milliseconds(20));
  ASSERT_EQ(windows.length(), 0.001);
  windows.add_span(std::chrono::microseconds(500), std::chrono::microseconds(2250), 4000, 2000, 1000);
  const std::vector<Window>& all = windows.all();
  EXPECT_DOUBLE_EQ(all[0].kv_token_seconds, 2);
  EXPECT_DOUBLE_EQ(all[1].kv_token_seconds, 4);
  EXPECT_DOUBLE_EQ(all[2].kv_token_seconds, 1);
  EXPECT_DOUBLE_EQ(all[1].running_seconds, 2);
  EXPECT_DOUBLE_EQ(all[1].waiting_seconds, 1);
  EXPECT_EQ(all[3].kv_token_seconds, 0);
}

}  // namespace
}  // namespace chorale::simulate
