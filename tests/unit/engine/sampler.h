// One row of logits to the next token of one request, alone: as the engine samples it, but with nothing kept
// between calls.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/thread_pool.h"
#include "engine/rank_sampler.h"
#include "engine/request.h"
#include "engine/sample_rows.h"

namespace chorale::engine {

struct SampleInput {
  std::span<const float> logits;  // [vocab]
  const SamplingParams& params;
  uint64_t seed = 0;  // in place of params.seed, which may be absent
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;
  std::span<const int32_t> eos_token_ids;
  std::span<const uint32_t> allowed;  // bits, see TokenConstraint::next_mask; empty: all tokens
};

struct Sampled {
  SampleStatus status = SampleStatus::ok;
  int32_t token = -1;
};

class Sampler {
 public:
  explicit Sampler(int64_t vocab_size)
      : vocab_size_(vocab_size),
        sampler_({.vocab_size = vocab_size, .max_rows = 1, .max_texts = 1, .max_places = 1}, {}) {}

  Sampled sample(const SampleInput& input) {
    plan_.clear();
    const bool counts = has_penalties(input.params);
    if (counts) add_text(0, input.prompt, input.output, plan_);
    add_choice({.params = input.params,
                .seed = input.seed,
                .prompt = input.prompt,
                .output = input.output,
                .eos_token_ids = input.eos_token_ids,
                .allowed = input.allowed,
                .count_slot = counts ? 0 : -1},
               vocab_size_, plan_);
    const SampledStep step = run(input.logits);
    return {step.status(0), step.tokens[0]};
  }

  // The token's log-probability under softmax(logits), and the num_top >= 0 most likely tokens (at most the
  // whole vocabulary). nullopt for bad logits.
  std::optional<TokenLogprobs> logprobs(std::span<const float> logits, int32_t token, int32_t num_top) {
    plan_.clear();
    add_score(token, num_top, plan_);
    const SampledStep step = run(logits);
    if (step.status(0) != SampleStatus::ok) return std::nullopt;
    return step.logprobs_of(0);
  }

 private:
  SampledStep run(std::span<const float> logits) {
    CHORALE_CHECK(std::ssize(logits) == vocab_size_);
    sampler_.start(stream_, {const_cast<float*>(logits.data()), DType::f32, 1, vocab_size_, vocab_size_},
                   plan_);
    return sampler_.collect(stream_);
  }

  const int64_t vocab_size_;
  ThreadPool pool_{1};
  Stream stream_{pool_, InstructionSet::portable};
  RankSampler sampler_;
  SamplePlan plan_;
};

}  // namespace chorale::engine
