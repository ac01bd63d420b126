#include "parallel/prediction.h"

#include <gtest/gtest.h>

#include "unit/parallel/error_text.h"
#include "unit/parallel/example_machines.h"

namespace chorale::parallel {
namespace {

Prediction predicted(const Strategy& strategy, const UniformWorkload& workload,
                     const ScheduleLimits& limits = {}) {
  return predict(example_cost(example_cpu(), example_model(), strategy), workload, limits);
}

TEST(PredictionTest, FollowsTheStepsOfTheEngine) {
  // One prompt of 100 tokens in steps of 40, then four more tokens.
  const Prediction one = predicted({}, {1, 100, 5}, {.prompt_tokens_per_step = 40});
  EXPECT_EQ(one.steps, 3 + 4);
  EXPECT_DOUBLE_EQ(one.output_rate, 5 / one.seconds);
  EXPECT_DOUBLE_EQ(one.prompt_rate, 100 / one.first_token_median);
  EXPECT_EQ(one.first_token_median, one.first_token_p99);
  EXPECT_GT(one.between_median, 0);
  // Eight prompts of 10 tokens fill two steps of 40; the first four decode beside the second.
  EXPECT_EQ(predicted({}, {8, 10, 3}, {.prompt_tokens_per_step = 40}).steps, 4);
  EXPECT_EQ(predicted({}, {1, 10, 1}).between_median, 0);
}

TEST(PredictionTest, GroupsShareTheRequests) {
  const Prediction two =
      predicted({.dp_size = 2, .moe_dp_size = 2}, {8, 10, 3}, {.prompt_tokens_per_step = 40});
  EXPECT_EQ(two.steps, 3);
  const Prediction one = predicted({.dp_size = 8, .moe_dp_size = 8}, {1, 10, 3});
  EXPECT_EQ(one.steps, 3);
}

TEST(PredictionTest, TheCacheLimitsWhatRunsAtOnce) {
  // Room for two requests of 12 and 4 tokens: four take turns.
  const ScheduleLimits limits{.prompt_tokens_per_step = 512, .kv_tokens = 33};
  EXPECT_EQ(predicted({}, {4, 12, 4}, limits).steps, 8);
  EXPECT_EQ(predicted({}, {4, 12, 4}).steps, 4);
  EXPECT_NE(error_text([&] { predicted({}, {4, 30, 4}, limits); }), "");
  EXPECT_NE(error_text([&] { predicted({}, {0, 30, 4}); }), "");
}

TEST(PredictionTest, PartsAddUpAndMoreRequestsTakeLonger) {
  double last = 0;
  for (const int64_t requests : {1, 2, 5, 40, 200, 100000}) {
    const Prediction prediction = predicted({.tp_size = 4, .dp_size = 2, .ep_size = 8}, {requests, 128, 64});
    EXPECT_NEAR(prediction.parts.total(), prediction.seconds, 1e-9 * prediction.seconds);
    EXPECT_LE(prediction.first_token_median, prediction.first_token_p99);
    EXPECT_LE(prediction.between_median, prediction.between_p99);
    if (requests <= 200) {
      EXPECT_GE(prediction.seconds, last);
    }
    last = prediction.seconds;
  }
}

}  // namespace
}  // namespace chorale::parallel
