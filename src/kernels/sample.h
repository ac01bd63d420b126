// From rows of logits to tokens and log probabilities.
//
// What comes of a row depends on that row and its parameters alone: not on the other rows, and not on the
// number of threads. The order is the one users of vLLM know:
//
//   bias; repetition, frequency and presence penalty; the mask of what is allowed
//   temperature 0: the largest logit
//   else: softmax(logits / temperature); top_k; top_p of what that left; min_p relative to the largest
//   probability;
//         one uniform random number through the inverse of the cumulative distribution
//
// Tokens are ordered by (logit descending, id ascending), so ties go to the lowest id. Probabilities are
// summed as 64-bit fixed-point weights (kernels/token_weight.h): integer sums are exact in any order, so a
// histogram finds the same token as a walk over the fully sorted vocabulary would.
//
// Log probabilities are those of the raw logits: before bias, penalties, mask and temperature.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

inline constexpr int64_t kMaxVocabulary = int64_t{1} << 20;

// What one row asks for. The defaults leave the model's distribution as it is.
struct SampleParams {
  double temperature = 1;  // 0: the largest logit
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;  // of tokens of prompt and output
  double frequency_penalty = 0;   // times a token's count in the output
  double presence_penalty = 0;    // of tokens of the output
  // The random number is random_bits(seed, random_stream, position).
  uint64_t seed = 0;
  uint64_t position = 0;
  uint32_t random_stream = 0;
  int32_t top_k = 0;         // 0 or less: all tokens
  int32_t num_top = -1;      // log probabilities of the token and of so many most likely ones; -1: of none
  int32_t given_token = -1;  // >= 0: none is chosen, this one is taken
  int32_t is_masked = 0;     // 1: the row of `allowed` counts
  int32_t count_slot = -1;   // the row of `counts` that penalties go by; -1: there are none
};

// In a count of a token: it is in the prompt. The other bits are how often it is in the output.
inline constexpr int32_t kInPrompt = int32_t{1} << 30;

// A list of (token, value) for each row.
struct SparseRows {
  Tensor offsets;  // int32 [1, R + 1]: row r's are [offsets[r], offsets[r + 1])
  Tensor tokens;   // int32 [1, at least offsets[R]]
  Tensor values;   // likewise, of a dtype of its own
};

// V: tokens of the vocabulary, 1 to kMaxVocabulary. R: rows.
struct SampleRows {
  Tensor logits;  // float32 [R, V]
  Tensor params;  // uint8 [R, sizeof(SampleParams)]
  // float32, added to logits. Minus infinity forbids the token. Entries of one token are applied in their
  // order.
  SparseRows bias;
  // int32 [slots, V]: how often each token came, as count_tokens() leaves it. A token that is chosen is
  // counted in its row's slot; no two rows have the same one. Empty: no row has a slot.
  Tensor counts;
  Tensor allowed;  // int32 [R, ceil(V / 32)]: bit t % 32 of word t / 32 for each token t; empty: no row is
                   // masked
};

enum class SampleStatus : int32_t {
  ok,
  bad_logits,  // NaN, +infinity, or no finite value at all
  all_masked,  // nothing is left of what is allowed
};

// L: the most alternatives that a row asks for.
struct SampledRows {
  Tensor tokens;      // int32 [1, R]; -1 unless the status is ok
  Tensor statuses;    // int32 [1, R]: SampleStatus
  Tensor logprobs;    // float32 [R, 1 + L]: the token's, then those of top_tokens
  Tensor top_tokens;  // int32 [R, L]: the most likely first; -1 behind min(num_top, V)
};

// Bytes of scratch for each row that is worked on at once.
int64_t sample_scratch_bytes(int64_t vocab_size, DeviceKind kind = DeviceKind::cpu);

// scratch: uint8 [S, at least sample_scratch_bytes(V)], S >= 1: so many rows are worked on at once. Of a row
// without log probabilities, or whose status is not ok, these outputs stay as they are.
void sample(const Stream& stream, const SampleRows& input, const Tensor& scratch, const SampledRows& output);

// What was sampled becomes what is computed next: token_ids[t] = sampled[rows[t]] for each t whose rows[t] is
// 0 or more; the others stay as they are. A row without a token (-1) gives token 0. rows: int32 [1, T];
// sampled: int32 [1, R]; token_ids: int32 [1, T].
void place_tokens(const Stream& stream, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids);

// One slot of counts, int32 [1, V], for a text that nothing is known of yet.
void clear_counts(const Stream& stream, const Tensor& counts);
// Counts tokens int32 [1, n], of the prompt or of the output.
void count_tokens(const Stream& stream, const Tensor& tokens, bool in_prompt, const Tensor& counts);

}  // namespace chorale
