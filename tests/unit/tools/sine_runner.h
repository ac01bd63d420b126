// A model whose logits are a function of the token and its position, and which checks the plans it is given.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "unit/engine/host_runner.h"

namespace chorale::tools {

class SineRunner : public engine::HostRunner {
 public:
  explicit SineRunner(int64_t vocab_size) : HostRunner(vocab_size) {}

  // The logit of token v after token `id` at `position`.
  static float logit(int32_t id, int64_t position, int64_t v) {
    return static_cast<float>(
        std::sin(0.37 * id + 0.11 * static_cast<double>(position) + 1.3 * static_cast<double>(v)));
  }

  std::span<const float> compute(const engine::StepPlan& plan) override {
    EXPECT_EQ(plan.chunks.size(), 1U);
    const engine::SequenceChunk& chunk = plan.chunks.front();
    EXPECT_EQ(chunk.first_token, 0);
    EXPECT_EQ(chunk.num_tokens, plan.num_tokens());
    if (chunk.first_position == 0) {
      num_sequences += 1;
    } else {
      EXPECT_EQ(chunk.first_position, next_position_);
    }
    next_position_ = chunk.first_position + chunk.num_tokens;
    EXPECT_EQ(chunk.first_block_index, 0);
    EXPECT_EQ(chunk.num_blocks, static_cast<int64_t>(plan.block_tables.size()));
    EXPECT_GE(chunk.num_blocks * engine::kBlockTokens, next_position_);
    for (size_t b = 0; b < plan.block_tables.size(); ++b)
      EXPECT_EQ(plan.block_tables[b], static_cast<int32_t>(b));

    chunk_sizes.push_back(chunk.num_tokens);
    logits_.clear();
    for (const int32_t token : plan.logits_tokens) {
      const int32_t id = plan.token_ids[static_cast<size_t>(token)];
      for (int64_t v = 0; v < vocab_size_; ++v)
        logits_.push_back(logit(id, chunk.first_position + token, v) * scale);
    }
    return logits_;
  }

  float scale = 1;  // NaN makes all logits NaN
  int64_t num_sequences = 0;
  std::vector<int64_t> chunk_sizes;

 private:
  int64_t next_position_ = 0;
  std::vector<float> logits_;
};

}  // namespace chorale::tools
