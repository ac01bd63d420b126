#include "engine/engine_core.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "engine/admission.h"

namespace chorale::engine {
namespace {

// How long the engine's thread makes masks before the next forward pass begins: some dozens of easy ones.
constexpr std::chrono::microseconds kMaskHelp{500};

}  // namespace

EngineStats initial_stats(const EngineOptions& options, int64_t num_dp_groups) {
  EngineStats stats;
  stats.kv_tokens_total = num_dp_groups * options.max_total_tokens;
  return stats;
}

EngineCore::EngineCore(ModelRunner& runner, EngineOptions options, Clock clock, int mask_threads)
    : runner_(&runner),
      options_(checked_options(std::move(options), runner)),
      vocab_size_(runner.vocab_size()),
      clock_(std::move(clock)),
      planner_(options_, runner.num_dp_groups()),
      sampled_(static_cast<size_t>(runner.num_dp_groups())),
      masks_(mask_threads),
      chooser_(runner, options_.eos_token_ids, masks_),
      stats_(initial_stats(options_, runner.num_dp_groups())) {}

void EngineCore::add(std::unique_ptr<Sequence> sequence) {
  planner_.add(*sequence);
  const uint64_t arrival = sequence->arrival;
  if (sequence->mask) masks_.start(sequence->mask, std::nullopt);
  sequences_.emplace(arrival, std::move(sequence));
}

void EngineCore::abort(uint64_t arrival) {
  const auto found = sequences_.find(arrival);
  if (found != sequences_.end()) finish_early(*found->second, FinishReason::aborted);
}

void EngineCore::abort_all() {
  for (const auto& [arrival, sequence] : sequences_) finish_early(*sequence, FinishReason::aborted);
}

void EngineCore::check_runner() {
  if (failed_) return;
  if (const auto failure = runner_->failure()) fail_engine(*failure);
}

std::vector<int64_t> EngineCore::expert_load() {
  if (failed_) return {};
  try {
    return runner_->expert_load();
  } catch (const std::exception& error) {
    fail_engine(error.what());
    return {};
  }
}

void EngineCore::step() {
  if (!has_work()) return;
  const PlannedStep* const planned = begin_step();
  if (planned == nullptr) return;
  planner_.commit();
  if (!run([&] { runner_->start_sampling(chooser_.plan(*planned)); })) return;
  if (options_.overlap_schedule) plan_ahead();
  if (!run([&] { collect(*planned); })) return;
  take_choices(*planned);
  const auto now = clock_();
  const std::chrono::duration<double> seconds = now - step_start_;
  step_start_ = now;
  ++stats_.steps;
  stats_.step_seconds[static_cast<size_t>(planned->phase)].observe(seconds.count());
}

// The next step, whose forward pass has begun; null when there is none, or the model has failed.
const PlannedStep* EngineCore::begin_step() {
  if (is_ahead_) {
    const PlannedStep* const planned = begin_ahead();
    if (planned != nullptr || failed_) return planned;
  }
  step_start_ = clock_();
  const PlannedStep& planned = planner_.plan();
  note_first_steps(planned, step_start_);
  masks_.help(kMaskHelp);
  return run([&] { runner_->forward(planned.plans); }) ? &planned : nullptr;
}

// The step that was planned ahead; null when all its sequences have ended, or the model has failed.
const PlannedStep* EngineCore::begin_ahead() {
  is_ahead_ = false;
  const std::optional<std::string> failure = std::exchange(ahead_failure_, std::nullopt);
  const PlannedStep* const planned = planner_.begin_ahead();
  if (planned == nullptr) {
    run([&] { runner_->synchronize(); });  // its plan is written anew soon
    return nullptr;
  }
  if (failure) {
    fail_engine(*failure);
    return nullptr;
  }
  note_first_steps(*planned, clock_());
  return planned;
}

// A failure is for the requests of that step, not for those of this one.
void EngineCore::plan_ahead() {
  const PlannedStep* const planned = planner_.plan_ahead();
  if (planned == nullptr) return;
  is_ahead_ = true;
  try {
    runner_->forward(planned->plans);
  } catch (const std::exception& error) {
    ahead_failure_ = error.what();
  }
}

// Requests that have waited for this step.
void EngineCore::note_first_steps(const PlannedStep& step, TimePoint now) {
  for (const ScheduledStep* group : step.groups) {
    for (const ScheduledSequence& scheduled : group->sequences) {
      if (scheduled.sequence == nullptr || scheduled.sequence->queue_seconds >= 0) continue;
      Sequence& sequence = *scheduled.sequence;
      sequence.queue_seconds = std::chrono::duration<double>(now - sequence.submitted).count();
      stats_.queue_seconds.observe(sequence.queue_seconds);
    }
  }
}

// Work of the model. False when it has failed.
template <typename Work>
bool EngineCore::run(const Work& work) {
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    fail_engine(error.what());
    return false;
  }
}

// Throws Error when the runner gives more or fewer rows than were planned.
void EngineCore::collect(const PlannedStep& step) {
  runner_->collect(sampled_);
  for (size_t g = 0; g < step.plans.size(); ++g) {
    const size_t rows = step.plans[g]->logits_tokens.size();
    if (sampled_[g].tokens.size() != rows) {
      throw_error("{} rows were to be sampled, {} came", rows, sampled_[g].tokens.size());
    }
  }
}

void EngineCore::take_choices(const PlannedStep& step) {
  for (size_t g = 0; g < step.groups.size(); ++g) {
    for (const ScheduledSequence& scheduled : step.groups[g]->sequences) {
      if (scheduled.sequence == nullptr) continue;
      take_choice(*scheduled.sequence, chooser_.choose(scheduled, sampled_[g]));
    }
  }
}

void EngineCore::take_choice(Sequence& sequence, Choice choice) {
  sequence.next_prompt_logprob += std::ssize(choice.prompt_logprobs);
  std::ranges::move(choice.prompt_logprobs, std::back_inserter(sequence.prompt_logprobs));
  switch (choice.status) {
    case ChoiceStatus::prompt_unfinished:
      return;
    case ChoiceStatus::chosen:
      return append_token(sequence, std::move(choice));
    case ChoiceStatus::bad_logits:
      return fail(sequence, {.kind = RequestError::Kind::failed, .message = "the model produced NaN logits"});
    case ChoiceStatus::all_masked:
      return fail(sequence, {.kind = RequestError::Kind::invalid,
                             .message = "no token is left that is allowed before min_new_tokens",
                             .param = "min_new_tokens"});
    case ChoiceStatus::constraint_failed:
      return fail(sequence, *sequence.mask->error());
  }
}

void EngineCore::append_token(Sequence& sequence, Choice choice) {
  const int32_t token = choice.token;
  sequence.tokens.push_back(token);
  ++stats_.generated_tokens;

  GenerationEvent& event = outbox_.add(sequence);
  event.token_ids.push_back(token);
  if (choice.logprobs) event.logprobs.push_back(std::move(*choice.logprobs));
  const std::vector<int32_t>& eos = options_.eos_token_ids;
  const bool is_end =
      sequence.mask && sequence.request.constraint_ends && std::ranges::find(eos, token) != eos.end();
  if (is_end || is_stop_token(token, sequence.request.sampling, eos)) {
    event.matched_stop_token = token;
    finish(sequence, event, FinishReason::stop);
  } else if (sequence.num_output() >= sequence.max_output) {
    finish(sequence, event, FinishReason::length);
  } else if (sequence.mask) {
    masks_.start(sequence.mask, token);  // while those of the others are made
  }
}

void EngineCore::finish(Sequence& sequence, GenerationEvent& event, FinishReason reason) {
  event.finish = reason;
  planner_.remove(sequence);
  chooser_.forget(sequence);
  switch (reason) {
    case FinishReason::none:
      CHORALE_CHECK(false, "a sequence needs a reason to finish");
      break;
    case FinishReason::stop:
      ++stats_.finished_stop;
      break;
    case FinishReason::length:
      ++stats_.finished_length;
      break;
    case FinishReason::aborted:
      ++stats_.finished_aborted;
      break;
    case FinishReason::error:
      ++stats_.finished_error;
      break;
  }
}

// Without a token. Does nothing when the sequence has just finished.
void EngineCore::finish_early(Sequence& sequence, FinishReason reason) {
  if (sequence.phase != Phase::finished) finish(sequence, outbox_.add(sequence), reason);
}

void EngineCore::fail(Sequence& sequence, RequestError error) {
  if (sequence.phase == Phase::finished) return;
  GenerationEvent& event = outbox_.add(sequence);
  event.error = std::move(error);
  finish(sequence, event, FinishReason::error);
}

void EngineCore::fail_engine(const std::string& why) {
  log::critical("the model runner failed, all requests end: {}", why);
  failed_ = true;
  fail_all(fmt::format("the model runner failed: {}", why));
}

void EngineCore::fail_all(const std::string& message) {
  for (const auto& [arrival, sequence] : sequences_)
    fail(*sequence, {.kind = RequestError::Kind::failed, .message = message});
}

const EngineStats& EngineCore::stats() {
  planner_.report(stats_);
  stats_.failed = failed_;
  return stats_;
}

void EngineCore::deliver() {
  outbox_.deliver([this](const Sequence& sequence) { sequences_.erase(sequence.arrival); });
}

// The plan of a step that is still under way goes with the core.
void EngineCore::synchronize() {
  if (is_ahead_ && !failed_) run([&] { runner_->synchronize(); });
}

}  // namespace chorale::engine
