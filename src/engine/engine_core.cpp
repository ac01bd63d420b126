#include "engine/engine_core.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "engine/admission.h"
#include "engine/runner_switch.h"
#include "engine/stats.h"

namespace chorale::engine {
namespace {

// How long the engine's thread makes masks before the next forward pass begins: some dozens of easy ones.
constexpr std::chrono::microseconds kMaskHelp{500};
constexpr std::chrono::milliseconds kIdleCheck{500};
constexpr std::chrono::milliseconds kMovingCheck{2};

}  // namespace

EngineCore::EngineCore(ModelRunner& runner, EngineOptions options, Clock clock, int mask_threads)
    : runner_(&runner),
      logits_rows_(options.max_logits_rows),
      options_(checked_options(std::move(options), runner)),
      vocab_size_(runner.vocab_size()),
      clock_(std::move(clock)),
      planner_(std::make_unique<StepPlanner>(options_, runner.num_dp_groups())),
      sampled_(static_cast<size_t>(runner.num_dp_groups())),
      masks_(mask_threads),
      chooser_(std::in_place, runner, options_.eos_token_ids, masks_),
      stats_(initial_stats(options_, runner.num_dp_groups())) {
  if (runner.movable_experts() != nullptr) {
    balancer_ = std::make_unique<ExpertBalancer>(runner, options_.eplb);
  }
}

void EngineCore::add(std::unique_ptr<Sequence> sequence) {
  planner_->add(*sequence);
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
    std::vector<int64_t> load = runner_->expert_load();
    for (size_t i = 0; i < expert_load_of_others_.size(); ++i) load[i] += expert_load_of_others_[i];
    return load;
  } catch (const std::exception& error) {
    fail_engine(error.what());
    return {};
  }
}

void EngineCore::rebalance(RebalanceCallback callback) {
  if (balancer_ == nullptr || failed_) return callback(nullptr);
  balancer_->ask(std::move(callback));
}

void EngineCore::do_work(const std::function<void()>& work) {
  if (!failed_) run(work);
}

std::chrono::milliseconds EngineCore::longest_sleep() const {
  if (!is_empty()) return std::chrono::milliseconds(0);
  return !failed_ && balancer_ != nullptr && balancer_->is_moving() ? kMovingCheck : kIdleCheck;
}

void EngineCore::balance_experts(bool stepped) {
  if (balancer_ == nullptr || failed_) return;
  run([&] { balancer_->advance(stepped, has_work()); });
}

void EngineCore::make_switches() {
  if (switches_.empty()) return;
  if (is_ahead_ && !failed_) {
    if (has_work()) return;
    begin_ahead();  // all of its sequences have ended, so no step would
  }
  for (SwitchCommand& command : std::exchange(switches_, {})) {
    SwitchResult result = make_switch(command);
    switched_.emplace_back(std::move(command.callback), std::move(result));
  }
}

SwitchResult EngineCore::make_switch(const SwitchCommand& command) {
  SwitchResult result;
  if (failed_) {
    result.error = "the model runner has failed";
    return result;
  }
  const auto start = clock_();
  try {
    const EngineOptions options =
        options_for(options_, logits_rows_, command.max_total_tokens, *command.next);
    std::vector<int64_t> load = expert_load();
    if (failed_) throw_error("the model runner has failed");
    std::unique_ptr<ExpertBalancer> balancer = balancer_of(*command.next);
    use_runner(*command.next, switch_planner(*planner_, *runner_, *command.next, options, result),
               std::move(balancer));
    expert_load_of_others_ = std::move(load);
    stats_.kv_tokens_total = command.next->num_dp_groups() * options.max_total_tokens;
  } catch (const std::exception& error) {
    result.error = error.what();
    return result;
  }
  step_start_ = clock_();
  result.pause_seconds = std::chrono::duration<double>(step_start_ - start).count();
  ++stats_.switches;
  stats_.switch_pause_seconds += result.pause_seconds;
  return result;
}

// Of the next runner; null where experts cannot move there.
std::unique_ptr<ExpertBalancer> EngineCore::balancer_of(ModelRunner& next) const {
  if (next.movable_experts() == nullptr) return nullptr;
  const ExpertMoves moves = balancer_ != nullptr ? balancer_->report()->moves : ExpertMoves{};
  return std::make_unique<ExpertBalancer>(next, options_.eplb, moves);
}

// Everything that knows the groups of the runner is made anew. Texts are counted again for penalties, as they
// are after preemption.
void EngineCore::use_runner(ModelRunner& next, std::unique_ptr<StepPlanner> planner,
                            std::unique_ptr<ExpertBalancer> balancer) {
  planner_ = std::move(planner);
  runner_ = &next;
  for (const auto& [arrival, sequence] : sequences_) {
    sequence->count_slot = -1;
    sequence->sampled_row = -1;
  }
  sampled_.assign(static_cast<size_t>(next.num_dp_groups()), {});
  chooser_.emplace(next, options_.eos_token_ids, masks_);
  if (balancer_ != nullptr) balancer_->give_up();
  balancer_ = std::move(balancer);
  stats_.experts = nullptr;
}

void EngineCore::step() {
  const uint64_t steps = stats_.steps;
  if (has_work()) run_step();
  balance_experts(stats_.steps != steps);
}

void EngineCore::run_step() {
  const PlannedStep* const planned = begin_step();
  if (planned == nullptr) return;
  planner_->commit();
  if (!run([&] { runner_->start_sampling(chooser_->plan(*planned)); })) return;
  if (options_.overlap_schedule && switches_.empty()) plan_ahead();
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
  const PlannedStep& planned = planner_->plan();
  note_first_steps(planned, step_start_);
  masks_.help(kMaskHelp);
  return run([&] { runner_->forward(planned.plans); }) ? &planned : nullptr;
}

// The step that was planned ahead; null when all its sequences have ended, or the model has failed.
const PlannedStep* EngineCore::begin_ahead() {
  is_ahead_ = false;
  const std::optional<std::string> failure = std::exchange(ahead_failure_, std::nullopt);
  const PlannedStep* const planned = planner_->begin_ahead();
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
  const PlannedStep* const planned = planner_->plan_ahead();
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
      take_choice(*scheduled.sequence, chooser_->choose(scheduled, sampled_[g]));
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
  planner_->remove(sequence);
  chooser_->forget(sequence);
  count_finished(reason, stats_);
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
  planner_->report(stats_);
  stats_.failed = failed_;
  if (balancer_ != nullptr) stats_.experts = balancer_->report();
  return stats_;
}

void EngineCore::deliver() {
  for (const auto& [callback, result] : switched_) callback(result);
  switched_.clear();
  if (balancer_ != nullptr) balancer_->tell();
  outbox_.deliver([this](const Sequence& sequence) { sequences_.erase(sequence.arrival); });
}

// The plan of a step that is still under way goes with the core.
void EngineCore::stop() {
  for (const SwitchCommand& command : switches_) command.callback({.error = "the engine has stopped"});
  switches_.clear();
  if (is_ahead_ && !failed_) run([&] { runner_->synchronize(); });
}

}  // namespace chorale::engine
