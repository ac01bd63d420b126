// What the engine is asked to do and what it answers, in token ids only: text, stop strings and chat belong
// to the server layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/token_constraint.h"

namespace chorale::engine {

// Bounds on the lists a request may carry.
inline constexpr size_t kMaxStopTokenIds = 1024;
inline constexpr size_t kMaxLogitBias = 4096;
inline constexpr int32_t kMaxTopLogprobs = 100;
// Of a model.
inline constexpr size_t kMaxEosTokenIds = 64;

// How the next token is chosen. Defaults are neutral: they leave the model's distribution as it is.
struct SamplingParams {
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;  // stop tokens are masked until this many were generated
  double temperature = 1.0;    // 0: greedy
  double top_p = 1.0;
  int64_t top_k = 0;  // 0 or -1: all tokens
  double min_p = 0.0;
  double repetition_penalty = 1.0;                    // over prompt and output (CTRL, arXiv 1909.05858)
  double frequency_penalty = 0.0;                     // over output
  double presence_penalty = 0.0;                      // over output
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id -> added to its logit
  std::vector<int32_t> stop_token_ids;                // beside the model's end-of-sequence tokens
  bool ignore_eos = false;                            // the model's end-of-sequence tokens do not stop
  std::optional<uint64_t> seed;                       // absent: a fresh one per request
  uint32_t choice_index = 0;  // distinguishes the n choices of one request under one seed

  // The first rule that is broken, with the field's name, or nullopt. vocab_size bounds token ids.
  std::optional<RequestError> validate(int64_t vocab_size) const;
};

// Whether penalties go by the tokens of prompt and output.
bool has_penalties(const SamplingParams& params);
// Whether a token ends a request that has these parameters.
bool is_stop_token(int32_t token, const SamplingParams& params, std::span<const int32_t> eos_token_ids);

struct GenerationRequest {
  std::string id;  // unique among live requests; for logs and abort
  std::vector<int32_t> prompt_ids;
  SamplingParams sampling;
  // Only requests with the same salt find each other's prompts in the prefix cache; empty: those without.
  std::string cache_salt;
  // -1: no logprobs; n >= 0: the chosen token's logprob and the n most likely alternatives.
  int32_t num_top_logprobs = -1;
  // Also return logprobs of the prompt tokens at positions max(1, start) and up (the first token has none),
  // one entry each; -1: none. At most the prompt's length.
  int64_t prompt_logprobs_start = -1;
  // What the output must look like; null: anything. The end-of-sequence tokens end it even under ignore_eos,
  // because nothing can follow.
  ConstraintFactory constraint;
  bool constraint_ends = true;  // false: it never ends, and ignore_eos holds

  // As SamplingParams::validate, and the fields above; a prompt must have at least one token.
  std::optional<RequestError> validate(int64_t vocab_size) const;
};

// Natural logarithms of probabilities under the raw model distribution (before temperature, penalties and
// bias), as OpenAI and SGLang report them.
struct TokenLogprobs {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // (token id, logprob), most likely first
};

enum class FinishReason { none, stop, length, aborted, error };

// One message of the engine to a request's listener. Tokens arrive in order; the last event has a finish
// reason.
struct GenerationEvent {
  std::vector<int32_t> token_ids;       // new since the last event; a stop token is included as the last one
  std::vector<TokenLogprobs> logprobs;  // one per token when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // once, in the first event, when asked for
  FinishReason finish = FinishReason::none;
  std::optional<int32_t> matched_stop_token;  // the token that ended it, when finish is `stop`
  std::optional<RequestError> error;          // when finish is `error`
  int64_t num_prompt_tokens = 0;
  int64_t num_completion_tokens = 0;
  int64_t num_cached_tokens = 0;  // prompt tokens found in the prefix cache at first admission
  double queue_seconds = 0;       // from submission to the first step that computed the request
};

// Called on the engine's thread: must not block, must not throw, must not call back into the engine except
// abort().
using EventListener = std::function<void(GenerationEvent)>;

}  // namespace chorale::engine
