#include "base/progress_bar.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(ProgressLine, TellsBytesRateAndTimeLeft) {
  EXPECT_EQ(progress_line("Loading", 500'000'000, 2'000'000'000, 0.25, 8),
            "Loading  [##------]   25%  500.0 MB of 2.00 GB, 2.00 GB/s, 1 s left");
  EXPECT_EQ(progress_line("Loading", 2'000'000'000, 2'000'000'000, 1, 0),
            "Loading  100%  2.00 GB of 2.00 GB, 2.00 GB/s");
}

TEST(ProgressLine, NothingDoneAndNothingToDo) {
  EXPECT_EQ(progress_line("x", 0, 10, 0, 0), "x    0%  0 bytes of 10 bytes, 0.00 GB/s");
  EXPECT_EQ(progress_line("x", 0, 0, 1, 4), "x  [####]  100%  0 bytes of 0 bytes, 0.00 GB/s");
}

TEST(ProgressBar, CountsFromManyThreads) {
  ProgressBar bar("x", 100, false);
  std::thread other([&] { bar.add(40); });
  bar.add(2);
  other.join();
  EXPECT_EQ(bar.done(), 42U);
}

}  // namespace
}  // namespace chorale
