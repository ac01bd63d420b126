// What a sequence's rows of logits come to: its next token, and the log probabilities that were asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/token_constraint.h"

namespace chorale::engine {

enum class ChoiceStatus {
  prompt_unfinished,  // more of the sequence is to be computed before it has a next token
  chosen,
  bad_logits,
  all_masked,         // as in SampleStatus
  constraint_failed,  // the sequence's mask has the error
};

struct Choice {
  ChoiceStatus status = ChoiceStatus::prompt_unfinished;
  int32_t token = -1;                          // when chosen
  std::optional<TokenLogprobs> logprobs;       // the token's, when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // the prompt's, from next_prompt_logprob on
};

// Not thread-safe.
class TokenChooser {
 public:
  // What is referred to must outlive the chooser.
  TokenChooser(int64_t vocab_size, const std::vector<int32_t>& eos_token_ids, MaskWorkers& masks);

  // `rows` [num_rows, vocab_size] belong to the last num_rows tokens that were computed of the sequence.
  // Waits for the mask of a constrained one.
  Choice choose(const Sequence& sequence, std::span<const float> rows);

 private:
  bool score_prompt(const Sequence& sequence, std::span<const float> rows, Choice& choice);
  void choose_next(const Sequence& sequence, std::span<const float> row, Choice& choice);

  const size_t vocab_size_;
  const std::vector<int32_t>& eos_token_ids_;
  MaskWorkers& masks_;
  Sampler sampler_;
};

}  // namespace chorale::engine
