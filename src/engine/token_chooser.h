// What the sequences of a step want of its logits, and what comes of them: their next tokens, and the log
// probabilities that were asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/count_slots.h"
#include "engine/model_runner.h"
#include "engine/request.h"
#include "engine/sample_plan.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/step_planner.h"
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
  TokenChooser(const ModelRunner& runner, const std::vector<int32_t>& eos_token_ids, MaskWorkers& masks);

  // What is wanted of a step that was computed, for each data-parallel group; valid until the next call.
  // Waits for the masks of constrained outputs.
  std::span<const SamplePlan* const> plan(const PlannedStep& step);

  // What came of it for one of the step's sequences that has not ended, in the order of the step; `sampled`
  // is its group's.
  Choice choose(const ScheduledSequence& scheduled, const SampledStep& sampled) const;

  // Of a sequence that has ended.
  void forget(Sequence& sequence);

 private:
  void plan_rows(const ScheduledSequence& scheduled, SamplePlan& plan);
  void plan_choice(Sequence& sequence, SamplePlan& plan);
  bool score_prompt(const ScheduledSequence& scheduled, const SampledStep& sampled, Choice& choice) const;

  const int64_t vocab_size_;
  const std::vector<int32_t>& eos_token_ids_;
  MaskWorkers& masks_;
  // By data-parallel group.
  std::vector<CountSlots> slots_;
  std::vector<SamplePlan> plans_;
  std::vector<const SamplePlan*> plan_pointers_;
};

}  // namespace chorale::engine
