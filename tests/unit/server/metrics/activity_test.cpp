#include "server/metrics/activity.h"

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

using std::chrono::seconds;

TEST(Activity, RateIsThatOfTheLastTenSeconds) {
  Activity activity;
  const Activity::Time start{};
  engine::EngineStats stats;
  EXPECT_EQ(activity.generation_rate(), 0);
  activity.sample(stats, start);
  EXPECT_EQ(activity.generation_rate(), 0);
  for (int i = 1; i <= 30; ++i) {
    if (i <= 20) stats.generated_tokens += 7;
    activity.sample(stats, start + seconds(i));
    if (i == 4 || i == 20) {
      EXPECT_DOUBLE_EQ(activity.generation_rate(), 7);
    }
    if (i == 25) {
      EXPECT_DOUBLE_EQ(activity.generation_rate(), 3.5);
    }
  }
  EXPECT_EQ(activity.generation_rate(), 0);
}

TEST(Activity, LineTellsWhatWasDoneSinceTheLastOne) {
  Activity activity;
  const Activity::Time start{};
  engine::EngineStats stats;
  stats.kv_tokens_total = 1000;
  EXPECT_FALSE(activity.status_line(stats, start));
  stats.steps = 5;
  stats.running = 2;
  stats.waiting = 1;
  stats.kv_tokens_used = 64;
  stats.prompt_tokens = 100;
  stats.prefix_queries = 80;
  stats.cached_tokens = 20;
  stats.generated_tokens = 50;
  EXPECT_EQ(
      activity.status_line(stats, start + seconds(10)),
      "running 2, queued 1, KV cache 64 of 1000 tokens (6.4%), prefix hits 25.0%, prompt 10.0 tokens/s, "
      "generated 5.0 tokens/s");
  EXPECT_EQ(activity.status_line(stats, start + seconds(12)),
            "running 2, queued 1, KV cache 64 of 1000 tokens (6.4%), prefix hits 0.0%, prompt 0.0 tokens/s, "
            "generated 0.0 tokens/s")
      << "nothing was done, but something is left to do";
  stats.running = stats.waiting = 0;
  EXPECT_FALSE(activity.status_line(stats, start + seconds(14)));
  stats.steps = 6;
  EXPECT_TRUE(activity.status_line(stats, start + seconds(16))) << "it came and went between two lines";
  EXPECT_FALSE(activity.status_line(stats, start + seconds(18)));
}

}  // namespace
}  // namespace chorale::server
