#include "engine/step_message.h"

#include <algorithm>
#include <cstring>
#include <limits>

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

TEST(StepMessage, CarriesWhatIsWantedOfLogits) {
  const std::vector<uint32_t> mask{7, 0x80000001};
  SamplePlan a;
  a.params = {{.temperature = 0.25, .seed = 1ULL << 63, .num_top = 3, .is_masked = 1, .count_slot = 2},
              {.given_token = 9}};
  a.bias_offsets = {0, 2, 2};
  a.bias_tokens = {4, 5};
  a.biases = {0.5F, -std::numeric_limits<float>::infinity()};
  a.masks = {mask};
  a.texts = {{.slot = 2, .num_prompt = 2, .num_output = 1}};
  a.text_tokens = {8, 8, 9};
  const SamplePlan nothing;
  const SamplePlan* plans[] = {&nothing, &a};
  std::vector<int32_t> message{1, 2, 3};
  write_sampling(plans, message);
  std::vector<SamplePlan> read(2);
  read[0].biases = {1};
  read_sampling(message, read);
  EXPECT_EQ(read[0].num_rows(), 0);
  EXPECT_TRUE(read[0].biases.empty());
  EXPECT_EQ(read[0].bias_offsets, std::vector<int32_t>{0});
  ASSERT_EQ(read[1].num_rows(), 2);
  EXPECT_EQ(std::memcmp(read[1].params.data(), a.params.data(), 2 * sizeof(SampleParams)), 0);
  EXPECT_EQ(read[1].bias_offsets, a.bias_offsets);
  EXPECT_EQ(read[1].bias_tokens, a.bias_tokens);
  EXPECT_EQ(read[1].biases, a.biases);
  ASSERT_EQ(read[1].masks.size(), 1U);
  EXPECT_TRUE(std::ranges::equal(read[1].masks[0], mask));
  ASSERT_EQ(read[1].texts.size(), 1U);
  EXPECT_EQ(read[1].texts[0].slot, 2);
  EXPECT_EQ(read[1].texts[0].num_prompt, 2);
  EXPECT_EQ(read[1].texts[0].num_output, 1);
  EXPECT_EQ(read[1].text_tokens, a.text_tokens);
}

// Groups whose rows ask for fewer alternatives than others', or for none, send as wide rows as these.
TEST(StepMessage, CarriesWhatWasSampled) {
  const std::vector<int32_t> tokens{5, -1}, statuses{0, 1}, top{5, 6, 7, -1};
  const std::vector<float> logprobs{-0.5F, -0.5F, -1, -2, -3, -std::numeric_limits<float>::infinity()};
  const SampledStep all{tokens, statuses, logprobs, top, 2}, chosen{tokens, statuses, {}, {}, 0};
  for (const int64_t most : {2, 4}) {
    std::vector<int32_t> rows;
    SampledValues values;
    write_sampled(all, most, rows);
    ASSERT_EQ(std::ssize(rows), 2 * sampled_columns(most));
    read_sampled(rows, most, values);
    const SampledStep read = values.view();
    EXPECT_TRUE(std::ranges::equal(read.tokens, tokens));
    EXPECT_TRUE(std::ranges::equal(read.statuses, statuses));
    for (const int64_t row : {0, 1}) {
      EXPECT_EQ(read.logprobs_of(row).logprob, all.logprobs_of(row).logprob);
      EXPECT_EQ(read.logprobs_of(row).top, all.logprobs_of(row).top);
    }
  }
  for (const int64_t most : {-1, 0, 3}) {
    std::vector<int32_t> rows;
    SampledValues values;
    write_sampled(chosen, most, rows);
    ASSERT_EQ(std::ssize(rows), 2 * sampled_columns(most));
    read_sampled(rows, most, values);
    EXPECT_TRUE(std::ranges::equal(values.view().tokens, tokens));
    EXPECT_TRUE(std::ranges::equal(values.view().statuses, statuses));
  }
}

TEST(StepMessageDeathTest, AMessageThatEndsTooEarlyIsAProgrammersFault) {
  std::vector<StepPlan> read(1);
  const std::vector<int32_t> message{3, 1, 2};
  EXPECT_DEATH(read_step(message, read), "ends after");
}

}  // namespace
}  // namespace chorale::engine
