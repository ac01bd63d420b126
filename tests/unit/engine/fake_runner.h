// A model without a model: its KV cache holds token ids, and the logits of a token are a hash of all tokens
// read back through the block table from position 0. A wrong block table, a stale or shared block that was
// overwritten, a wrong cached prefix or a missed recompute changes the output.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "engine/engine.h"
#include "engine/model_runner.h"
#include "unit/engine/host_runner.h"
#include "unit/engine/sampler.h"

namespace chorale::engine {

class FakeRunner : public HostRunner {
 public:
  static constexpr int32_t kNothing = -1;

  FakeRunner(int64_t vocab_size, int64_t num_blocks)
      : HostRunner(vocab_size), cache_(static_cast<size_t>(num_blocks)) {
    for (auto& block : cache_) block.fill(kNothing);
  }

  // What the logits of the last of these tokens must be. A history that contains poison_token gives NaN.
  void logits_of(std::span<const int32_t> tokens, std::span<float> row) const {
    uint64_t state = 0;
    bool poisoned = false;
    for (const int32_t token : tokens) {
      state = random_bits(state, 1, static_cast<uint64_t>(token));
      poisoned |= token == poison_token;
    }
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = poisoned ? std::numeric_limits<float>::quiet_NaN()
                        : static_cast<float>(random_uniform(state, 2, i) * 8 - 4);
    }
  }

  // A closed gate holds a step back, so that a test can arrange what happens during it.
  std::span<const float> compute(const StepPlan& plan) override {
    wait_at_gate();
    if (throw_on_step >= 0 && num_steps >= throw_on_step) throw std::runtime_error("the fake model broke");
    ++num_steps;
    write_tokens(plan);
    logits_.assign(plan.logits_tokens.size() * static_cast<size_t>(vocab_size_), 0);
    for (size_t i = 0; i < plan.logits_tokens.size(); ++i) {
      if (i > 0) {
        EXPECT_LT(plan.logits_tokens[i - 1], plan.logits_tokens[i]);
      }
      const auto tokens = read_history(plan, plan.logits_tokens[i]);
      logits_of(tokens, std::span(logits_).subspan(i * static_cast<size_t>(vocab_size_),
                                                   static_cast<size_t>(vocab_size_)));
    }
    return logits_;
  }

  void close_gate() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void open_gate() {
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
    }
    changed_.notify_all();
  }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_; });
  }

  int32_t poison_token = -1;
  int64_t throw_on_step = -1;
  std::atomic<int64_t> num_steps = 0;
  int64_t max_tokens_seen = 0;
  int64_t max_rows_seen = 0;

 private:
  void wait_at_gate() {
    std::unique_lock lock(mutex_);
    held_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    held_ = false;
  }

  int32_t& slot(const StepPlan& plan, const SequenceChunk& chunk, int64_t position) {
    EXPECT_LT(position / kBlockTokens, chunk.num_blocks);
    const auto index = static_cast<size_t>(chunk.first_block_index + position / kBlockTokens);
    const auto block = static_cast<size_t>(plan.block_tables.at(index));
    return cache_.at(block).at(static_cast<size_t>(position % kBlockTokens));
  }

  void write_tokens(const StepPlan& plan) {
    max_tokens_seen = std::max(max_tokens_seen, plan.num_tokens());
    max_rows_seen = std::max(max_rows_seen, static_cast<int64_t>(plan.logits_tokens.size()));
    std::map<int32_t, size_t> writer;  // block -> chunk
    int64_t next_token = 0;
    for (size_t c = 0; c < plan.chunks.size(); ++c) {
      const SequenceChunk& chunk = plan.chunks[c];
      EXPECT_EQ(chunk.first_token, next_token);
      EXPECT_GT(chunk.num_tokens, 0);
      next_token += chunk.num_tokens;
      for (int64_t i = 0; i < chunk.num_tokens; ++i) {
        const int64_t position = chunk.first_position + i;
        slot(plan, chunk, position) = plan.token_ids.at(static_cast<size_t>(chunk.first_token + i));
        const int32_t block =
            plan.block_tables.at(static_cast<size_t>(chunk.first_block_index + position / kBlockTokens));
        EXPECT_EQ(writer.emplace(block, c).first->second, c) << "two chunks write block " << block;
      }
    }
    EXPECT_EQ(next_token, plan.num_tokens());
    // A block that one chunk writes is not in another's table at all.
    for (size_t c = 0; c < plan.chunks.size(); ++c) {
      for (int64_t b = 0; b < plan.chunks[c].num_blocks; ++b) {
        const auto found =
            writer.find(plan.block_tables.at(static_cast<size_t>(plan.chunks[c].first_block_index + b)));
        if (found != writer.end()) {
          EXPECT_EQ(found->second, c);
        }
      }
    }
  }

  std::vector<int32_t> read_history(const StepPlan& plan, int32_t token_index) {
    for (const SequenceChunk& chunk : plan.chunks) {
      if (token_index < chunk.first_token || token_index >= chunk.first_token + chunk.num_tokens) continue;
      std::vector<int32_t> tokens;
      for (int64_t p = 0; p <= chunk.first_position + token_index - chunk.first_token; ++p) {
        tokens.push_back(slot(plan, chunk, p));
      }
      return tokens;
    }
    ADD_FAILURE() << "token " << token_index << " is in no chunk";
    return {};
  }

  std::vector<std::array<int32_t, kBlockTokens>> cache_;
  std::vector<float> logits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  bool held_ = false;
};

// What a request answers when nothing else exists: no blocks, no batches, no steps.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::none;
};

inline Answer answer_alone(const FakeRunner& runner, const GenerationRequest& request,
                           const EngineOptions& options) {
  Answer answer;
  Sampler sampler(runner.vocab_size());
  std::vector<float> row(static_cast<size_t>(runner.vocab_size()));
  std::vector<int32_t> tokens = request.prompt_ids;
  const auto num_prompt = static_cast<int64_t>(tokens.size());
  if (request.prompt_logprobs_start >= 0) {
    for (int64_t p = std::max<int64_t>(request.prompt_logprobs_start, 1); p < num_prompt; ++p) {
      runner.logits_of(std::span(tokens).first(static_cast<size_t>(p)), row);
      answer.prompt_logprobs.push_back(
          *sampler.logprobs(row, tokens[static_cast<size_t>(p)], std::max(request.num_top_logprobs, 0)));
    }
  }
  const SamplingParams& params = request.sampling;
  const int64_t limit = std::min({params.max_new_tokens, options.max_context_len - num_prompt,
                                  options.max_total_tokens - num_prompt + 1});
  while (answer.finish == FinishReason::none) {
    runner.logits_of(tokens, row);
    const Sampled sampled = sampler.sample({.logits = row,
                                            .params = params,
                                            .seed = params.seed.value(),
                                            .prompt = request.prompt_ids,
                                            .output = answer.tokens,
                                            .eos_token_ids = options.eos_token_ids});
    if (sampled.status != SampleStatus::ok) {
      answer.finish = FinishReason::error;
      break;
    }
    tokens.push_back(sampled.token);
    answer.tokens.push_back(sampled.token);
    if (request.num_top_logprobs >= 0) {
      answer.logprobs.push_back(*sampler.logprobs(row, sampled.token, request.num_top_logprobs));
    }
    if (is_stop_token(sampled.token, params, options.eos_token_ids)) {
      answer.finish = FinishReason::stop;
    } else if (static_cast<int64_t>(answer.tokens.size()) >= limit) {
      answer.finish = FinishReason::length;
    }
  }
  return answer;
}

}  // namespace chorale::engine
