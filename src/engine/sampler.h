// From a row of logits to the next token of one request.
//
// What kernels/sample.h does of a batch of rows, for one row, with the parameters as a request has them. The
// token depends on the row, the request and its earlier tokens alone, and the sampler keeps nothing between
// calls but its buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/stream.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "engine/request.h"
#include "kernels/sample.h"

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

// Whether a token ends a request that has these parameters.
bool is_stop_token(int32_t token, const SamplingParams& params, std::span<const int32_t> eos_token_ids);

// All buffers are made at construction; the vocabulary has 1 to kMaxVocabulary tokens. Not thread-safe.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  Sampled sample(const SampleInput& input);

  // The token's log-probability under softmax(logits), and the num_top >= 0 most likely tokens (at most the
  // whole vocabulary). nullopt for bad logits.
  std::optional<TokenLogprobs> logprobs(std::span<const float> logits, int32_t token, int32_t num_top);

 private:
  void list_bias(const SampleInput& input);
  void count_text(const SampleInput& input);
  void forget_text(const SampleInput& input, int32_t chosen);
  Sampled run(std::span<const float> logits, std::span<const uint32_t> allowed, const SampleParams& params,
              const SampledRows& output);

  const size_t vocab_size_;
  ThreadPool pool_{1};
  Stream stream_{pool_, InstructionSet::portable};
  Buffer scratch_;
  std::vector<int32_t> counts_;  // [vocab], zero between calls
  // The biases of the row that is being sampled.
  std::vector<int32_t> bias_tokens_;
  std::vector<float> biases_;
};

}  // namespace chorale::engine
