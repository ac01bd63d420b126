#include "engine/token_chooser.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "engine/sample_rows.h"

namespace chorale::engine {
namespace {

ChoiceStatus to_choice(SampleStatus status) {
  switch (status) {
    case SampleStatus::bad_logits:
      return ChoiceStatus::bad_logits;
    case SampleStatus::all_masked:
      return ChoiceStatus::all_masked;
    case SampleStatus::ok:
      break;
  }
  return ChoiceStatus::chosen;
}

}  // namespace

TokenChooser::TokenChooser(const ModelRunner& runner, const std::vector<int32_t>& eos_token_ids,
                           MaskWorkers& masks)
    : vocab_size_(runner.vocab_size()),
      eos_token_ids_(eos_token_ids),
      masks_(masks),
      slots_(static_cast<size_t>(runner.num_dp_groups())),
      plans_(slots_.size()) {
  for (const SamplePlan& plan : plans_) plan_pointers_.push_back(&plan);
}

void TokenChooser::forget(Sequence& sequence) {
  slots_[sequence.dp_group].release(sequence);
}

std::span<const SamplePlan* const> TokenChooser::plan(const PlannedStep& step) {
  for (size_t g = 0; g < plans_.size(); ++g) {
    plans_[g].clear();
    slots_[g].release_preempted();
    for (const ScheduledSequence& scheduled : step.groups[g]->sequences) plan_rows(scheduled, plans_[g]);
  }
  return plan_pointers_;
}

// The row of position p scores the prompt's token at p + 1; that of the last token gives the next one.
// Nobody looks at those of a sequence that has ended.
void TokenChooser::plan_rows(const ScheduledSequence& scheduled, SamplePlan& plan) {
  if (scheduled.sequence == nullptr) {
    for (int64_t i = 0; i < scheduled.num_rows; ++i) add_score(0, -1, plan);
    return;
  }
  Sequence& sequence = *scheduled.sequence;
  const int64_t first_position = sequence.num_computed - scheduled.num_rows;
  for (int64_t target = first_position + 1; target <= sequence.num_computed; ++target) {
    if (target == sequence.num_tokens()) {
      plan_choice(sequence, plan);
    } else {
      add_score(sequence.tokens[static_cast<size_t>(target)], std::max(sequence.request.num_top_logprobs, 0),
                plan);
    }
  }
}

void TokenChooser::plan_choice(Sequence& sequence, SamplePlan& plan) {
  std::span<const uint32_t> allowed;
  if (sequence.mask) {
    masks_.wait(*sequence.mask);
    if (sequence.mask->error()) return add_score(0, -1, plan);  // nothing comes of the row
    allowed = sequence.mask->mask();
  }
  const SamplingParams& params = sequence.request.sampling;
  if (has_penalties(params) && slots_[sequence.dp_group].take(sequence)) {
    add_text(sequence.count_slot, sequence.prompt(), sequence.output(), plan);
  }
  add_choice({.params = params,
              .seed = sequence.seed,
              .prompt = sequence.prompt(),
              .output = sequence.output(),
              .eos_token_ids = eos_token_ids_,
              .allowed = allowed,
              .num_top_logprobs = sequence.request.num_top_logprobs,
              .count_slot = sequence.count_slot},
             vocab_size_, plan);
}

Choice TokenChooser::choose(const ScheduledSequence& scheduled, const SampledStep& sampled) const {
  const Sequence& sequence = *scheduled.sequence;
  Choice choice;
  if (sequence.next_prompt_logprob < sequence.num_prompt && !score_prompt(scheduled, sampled, choice)) {
    choice.status = ChoiceStatus::bad_logits;
    return choice;
  }
  if (sequence.num_remaining() > 0) return choice;
  if (sequence.mask && sequence.mask->error()) {
    choice.status = ChoiceStatus::constraint_failed;
    return choice;
  }
  const int64_t row = scheduled.first_row + scheduled.num_rows - 1;
  choice.status = to_choice(sampled.status(row));
  if (choice.status != ChoiceStatus::chosen) return choice;
  choice.token = sampled.tokens[static_cast<size_t>(row)];
  if (sequence.request.num_top_logprobs >= 0) choice.logprobs = sampled.logprobs_of(row);
  return choice;
}

// False for bad logits.
bool TokenChooser::score_prompt(const ScheduledSequence& scheduled, const SampledStep& sampled,
                                Choice& choice) const {
  const Sequence& sequence = *scheduled.sequence;
  const int64_t first_position = sequence.num_computed - scheduled.num_rows;
  for (int64_t i = 0; i < scheduled.num_rows; ++i) {
    const int64_t target = first_position + i + 1;
    if (target >= sequence.num_prompt) break;
    const int64_t next = sequence.next_prompt_logprob + std::ssize(choice.prompt_logprobs);
    CHORALE_CHECK(target == next, "position {} was to be scored next, not {}", next, target);
    if (sampled.status(scheduled.first_row + i) != SampleStatus::ok) return false;
    choice.prompt_logprobs.push_back(sampled.logprobs_of(scheduled.first_row + i));
  }
  return true;
}

}  // namespace chorale::engine
