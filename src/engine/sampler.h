// From a row of logits to the next token.
//
// The token depends on the row, the request and its earlier tokens alone, never on the batch, and the sampler
// keeps nothing between calls but its buffers. The order is the one users of vLLM know:
//
//   logit_bias; repetition, frequency and presence penalty; masking of stop tokens before min_new_tokens, and
//   of what a constraint does not allow
//   temperature 0: the largest logit
//   else: softmax(logits / temperature); top_k; top_p of what that left; min_p relative to the largest
//   probability;
//         one uniform random number through the inverse of the cumulative distribution
//
// Tokens are ordered by (logit descending, id ascending), so ties go to the lowest id. Probabilities are
// summed as 64-bit fixed-point weights (the most likely token has 2^43, one below 2^-44 of it has none):
// integer sums are exact in any order, so a histogram finds the same token as a walk over the fully sorted
// vocabulary would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/request.h"

namespace chorale::engine {

inline constexpr int64_t kMaxVocabulary = int64_t{1} << 20;

struct SampleInput {
  std::span<const float> logits;  // [vocab]
  const SamplingParams& params;
  uint64_t seed = 0;  // in place of params.seed, which may be absent
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;
  std::span<const int32_t> eos_token_ids;
  std::span<const uint32_t> allowed;  // bits, see TokenConstraint::next_mask; empty: all tokens
};

enum class SampleStatus {
  ok,
  bad_logits,  // NaN, +infinity, or no finite value at all
  all_masked,  // nothing is left of what is allowed
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
  struct Candidate {
    float logit;
    int32_t token;
    // The order of sampling: more likely first, then the lower id.
    friend bool operator<(const Candidate& a, const Candidate& b) {
      return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
    }
  };
  struct Found {
    int32_t token;
    uint64_t mass;  // of all tokens up to and with this one
  };

  void apply_penalties(const SampleInput& input);
  void mask_stop_tokens(const SampleInput& input);
  int32_t sample_from_top_k(std::span<const float> logits, const SamplingParams& params, uint64_t random);
  int32_t sample_from_all(std::span<const float> logits, const SamplingParams& params, uint64_t random);
  void collect_top(std::span<const float> logits, size_t count);
  void collect_bucket(std::span<const float> logits, uint16_t bucket);
  void assign_buckets(std::span<const float> logits);
  Found find_in_candidates(uint64_t mass, uint64_t mass_before) const;
  Found find_in_buckets(std::span<const float> logits, uint64_t mass);
  uint64_t weight_of(float logit) const;
  void weigh_all(std::span<const float> logits);

  std::vector<float> adjusted_;          // [vocab], the row after bias, penalties and mask
  std::vector<uint32_t> output_count_;   // [vocab], zero between calls
  std::vector<uint8_t> seen_;            // [vocab], zero between calls
  std::vector<uint64_t> weights_;        // [vocab]
  std::vector<uint16_t> bucket_of_;      // [vocab]
  std::vector<uint64_t> bucket_weight_;  // [buckets]
  std::vector<Candidate> candidates_;    // capacity [vocab]; sorted when read
  // The row that is being sampled:
  float max_ = 0;
  float min_ = 0;  // over the finite logits
  double temperature_ = 1;
};

}  // namespace chorale::engine
