// A model that is not one: its logits are a hash of the last token and its position, so that a request's
// tokens do not depend on the batch it is in. For tests of what is above the engine.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>
#include <thread>
#include <vector>

#include "unit/engine/host_runner.h"

namespace chorale::server {

class ScriptedRunner : public engine::HostRunner {
 public:
  explicit ScriptedRunner(int64_t vocab) : HostRunner(vocab) {}

  std::span<const float> compute(const engine::StepPlan& plan) override {
    std::this_thread::sleep_for(std::chrono::microseconds(step_microseconds));
    logits_.assign(plan.logits_tokens.size() * static_cast<size_t>(vocab_size_), 0.0F);
    for (size_t row = 0; row < plan.logits_tokens.size(); ++row) {
      const int64_t token_index = plan.logits_tokens[row];
      int64_t position = 0;
      for (const engine::SequenceChunk& chunk : plan.chunks) {
        const int64_t within = token_index - chunk.first_token;
        if (within >= 0 && within < chunk.num_tokens) position = chunk.first_position + within;
      }
      fill(std::span(logits_).subspan(row * static_cast<size_t>(vocab_size_),
                                      static_cast<size_t>(vocab_size_)),
           plan.token_ids[static_cast<size_t>(token_index)], position);
    }
    return logits_;
  }

  std::atomic<int64_t> step_microseconds{0};
  std::atomic<int32_t> forced_token{-1};  // always the likeliest, where it is not negative
  std::atomic<int32_t> nan_after{-1};     // this token is followed by NaN logits
  // The likeliest tokens after the positions from this one on. To be set while nothing runs.
  std::vector<int32_t> script;
  int64_t script_position = 0;

 private:
  void fill(std::span<float> row, int32_t token, int64_t position) const {
    if (token == nan_after) {
      row[0] = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    uint64_t state = static_cast<uint64_t>(token) * 0x9E3779B97F4A7C15U + static_cast<uint64_t>(position) + 1;
    for (float& logit : row) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      logit = static_cast<float>(state >> 40U) * 0x1p-22F;  // 0 to 4
    }
    if (forced_token >= 0) row[static_cast<size_t>(forced_token.load())] = 20.0F;
    const int64_t line = position - script_position;
    if (line >= 0 && line < std::ssize(script)) {
      row[static_cast<size_t>(script[static_cast<size_t>(line)])] = 30.0F;
    }
  }

  std::vector<float> logits_;
};

}  // namespace chorale::server
