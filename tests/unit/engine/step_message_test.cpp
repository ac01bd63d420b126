#include "engine/step_message.h"

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

TEST(StepMessage, CarriesEveryPlan) {
  StepPlan a;
  a.token_ids = {5, 6, 7};
  a.block_tables = {2, 9};
  a.logits_tokens = {0, 2};
  a.chunks = {{0, 1, 40, 0, 2}, {1, 2, 0, 2, 1}};
  const StepPlan nothing;
  const StepPlan* plans[] = {&a, &nothing, &a};
  std::vector<int32_t> message{1, 2, 3};  // what an earlier step left
  write_step(plans, message);
  std::vector<StepPlan> read(3);
  read[1].token_ids = {1};
  read_step(message, read);
  for (const size_t g : {size_t{0}, size_t{2}}) {
    EXPECT_EQ(read[g].token_ids, a.token_ids);
    EXPECT_EQ(read[g].block_tables, a.block_tables);
    EXPECT_EQ(read[g].logits_tokens, a.logits_tokens);
    ASSERT_EQ(read[g].chunks.size(), 2U);
    EXPECT_EQ(read[g].chunks[0].first_position, 40);
    EXPECT_EQ(read[g].chunks[1].num_tokens, 2);
    EXPECT_EQ(read[g].chunks[1].first_block_index, 2);
  }
  EXPECT_EQ(read[1].num_tokens(), 0);
  EXPECT_TRUE(read[1].chunks.empty());
}

TEST(StepMessageDeathTest, AMessageThatEndsTooEarlyIsAProgrammersFault) {
  std::vector<StepPlan> read(1);
  const std::vector<int32_t> message{3, 1, 2};
  EXPECT_DEATH(read_step(message, read), "ends after");
}

}  // namespace
}  // namespace chorale::engine
