#include "engine/token_chooser.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace chorale::engine {
namespace {

ChoiceStatus status_of(const Sampled& sampled) {
  switch (sampled.status) {
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

TokenChooser::TokenChooser(int64_t vocab_size, const std::vector<int32_t>& eos_token_ids, MaskWorkers& masks)
    : vocab_size_(static_cast<size_t>(vocab_size)),
      eos_token_ids_(eos_token_ids),
      masks_(masks),
      sampler_(vocab_size) {}

Choice TokenChooser::choose(const Sequence& sequence, std::span<const float> rows) {
  Choice choice;
  if (sequence.next_prompt_logprob < sequence.num_prompt && !score_prompt(sequence, rows, choice)) {
    choice.status = ChoiceStatus::bad_logits;
  } else if (sequence.num_remaining() == 0) {
    choose_next(sequence, rows.last(vocab_size_), choice);
  }
  return choice;
}

// The row of position p scores the token at p + 1. False for bad logits.
bool TokenChooser::score_prompt(const Sequence& sequence, std::span<const float> rows, Choice& choice) {
  const auto num_rows = static_cast<int64_t>(rows.size() / vocab_size_);
  const int64_t first_position = sequence.num_computed - num_rows;
  const int32_t num_top = std::max(sequence.request.num_top_logprobs, 0);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t target = first_position + i + 1;
    if (target >= sequence.num_prompt) break;
    const int64_t next = sequence.next_prompt_logprob + std::ssize(choice.prompt_logprobs);
    CHORALE_CHECK(target == next, "position {} was to be scored next, not {}", next, target);
    const auto row = rows.subspan(static_cast<size_t>(i) * vocab_size_, vocab_size_);
    auto scored = sampler_.logprobs(row, sequence.tokens[static_cast<size_t>(target)], num_top);
    if (!scored) return false;
    choice.prompt_logprobs.push_back(std::move(*scored));
  }
  return true;
}

void TokenChooser::choose_next(const Sequence& sequence, std::span<const float> row, Choice& choice) {
  std::span<const uint32_t> allowed;
  if (sequence.mask) {
    masks_.wait(*sequence.mask);
    if (sequence.mask->error()) {
      choice.status = ChoiceStatus::constraint_failed;
      return;
    }
    allowed = sequence.mask->mask();
  }
  const Sampled sampled = sampler_.sample({.logits = row,
                                           .params = sequence.request.sampling,
                                           .seed = sequence.seed,
                                           .prompt = sequence.prompt(),
                                           .output = sequence.output(),
                                           .eos_token_ids = eos_token_ids_,
                                           .allowed = allowed});
  choice.status = status_of(sampled);
  if (choice.status != ChoiceStatus::chosen) return;
  choice.token = sampled.token;
  if (sequence.request.num_top_logprobs >= 0) {
    choice.logprobs = sampler_.logprobs(row, sampled.token, sequence.request.num_top_logprobs);
  }
}

}  // namespace chorale::engine
