#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "engine/admission.h"
#include "engine/expert_balancer.h"
#include "engine/inbox.h"
#include "engine/outbox.h"
#include "engine/runner_switch.h"
#include "engine/sequence.h"
#include "engine/stats.h"
#include "engine/step_planner.h"
#include "engine/token_chooser.h"

namespace chorale::engine {
namespace {

constexpr int kMaxMaskThreads = 4;
// How long the engine's thread makes masks before the next forward pass begins: some dozens of easy ones.
constexpr std::chrono::microseconds kMaskHelp{500};

// The engine's thread makes masks, too. More threads than that find no core that is free.
int mask_threads() {
  return std::min(available_cores() / 2, kMaxMaskThreads);
}

}  // namespace

const char* name_of(SchedulePolicy policy) {
  return policy == SchedulePolicy::fcfs ? "fcfs" : "fair";
}

class Engine::Impl {
 public:
  Impl(ModelRunner& runner, EngineOptions options);
  ~Impl();

  std::optional<RequestError> submit(std::vector<Submission> submissions);
  Inbox& inbox() { return inbox_; }
  const Inbox& inbox() const { return inbox_; }
  const EngineOptions& options() const { return options_; }

 private:
  // The engine's thread.
  void loop();
  void apply_commands();
  std::vector<int64_t> expert_load();
  void balance_experts(bool stepped);
  void make_switches();
  SwitchResult make_switch(const SwitchCommand& command);
  void use_runner(ModelRunner& next, std::unique_ptr<StepPlanner> planner);
  void step();
  const PlannedStep* begin_step();
  const PlannedStep* begin_ahead();
  void plan_ahead();
  void note_first_steps(const PlannedStep& step, std::chrono::steady_clock::time_point now);
  template <typename Work>
  bool run(const Work& work);
  void collect(const PlannedStep& step);
  void take_choices(const PlannedStep& step);
  void take_choice(Sequence& sequence, Choice choice);
  void append_token(Sequence& sequence, Choice choice);
  void finish(Sequence& sequence, GenerationEvent& event, FinishReason reason);
  void finish_early(Sequence& sequence, FinishReason reason);
  void fail(Sequence& sequence, RequestError error);
  void fail_engine(const std::string& why);
  void fail_all(const std::string& message);
  void publish_and_deliver();

  ModelRunner* runner_;
  const int64_t logits_rows_;  // as they were given
  const EngineOptions options_;
  const int64_t vocab_size_;
  Inbox inbox_;  // shared with all threads

  // The engine's thread alone.
  EngineCommands commands_;                                            // what is being done of them
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by arrival
  std::unique_ptr<StepPlanner> planner_;
  std::vector<SampledStep> sampled_;                               // [dp_size], of the step
  std::vector<SwitchCommand> switches_;                            // that are to be made
  std::vector<std::pair<SwitchCallback, SwitchResult>> switched_;  // what is to be told of them
  std::vector<int64_t> expert_load_of_others_;                     // of the runners before this one
  // The forward pass of the planner's next step is under way, or could not begin for this reason.
  bool is_ahead_ = false;
  std::optional<std::string> ahead_failure_;
  std::chrono::steady_clock::time_point step_start_;  // or the end of the one before, where that is later
  MaskWorkers masks_{mask_threads()};
  std::optional<TokenChooser> chooser_;
  std::unique_ptr<ExpertBalancer> balancer_;  // null where experts cannot move
  Outbox outbox_;
  EngineStats stats_;  // what is published
  bool failed_ = false;

  std::thread thread_;  // last: it uses everything above
};

Engine::Impl::Impl(ModelRunner& runner, EngineOptions options)
    : runner_(&runner),
      logits_rows_(options.max_logits_rows),
      options_(checked_options(std::move(options), runner)),
      vocab_size_(runner.vocab_size()),
      inbox_(options_, initial_stats(options_, runner.num_dp_groups())),
      planner_(std::make_unique<StepPlanner>(options_, runner.num_dp_groups())),
      sampled_(static_cast<size_t>(runner.num_dp_groups())),
      chooser_(std::in_place, runner, options_.eos_token_ids, masks_),
      stats_(initial_stats(options_, runner.num_dp_groups())) {
  if (runner.movable_experts() != nullptr) {
    balancer_ = std::make_unique<ExpertBalancer>(runner, options_.eplb);
  }
  thread_ = std::thread([this] { loop(); });
}

Engine::Impl::~Impl() {
  inbox_.stop();
  thread_.join();
}

std::optional<RequestError> Engine::Impl::submit(std::vector<Submission> submissions) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (Submission& submission : submissions) {
    if (auto error = submission.request.validate(vocab_size_)) return error;
    auto sequence = std::make_unique<Sequence>(std::move(submission.request), std::move(submission.listener));
    if (auto error = check_length(options_, *sequence)) return error;
    sequence->cache_root = cache_root(sequence->request.cache_salt);
    sequence->max_output = output_limit(options_, *sequence);
    if (const ConstraintFactory& constraint = sequence->request.constraint) {
      sequence->mask = std::make_shared<MaskTask>(constraint(), vocab_size_);
    }
    sequences.push_back(std::move(sequence));
  }
  return inbox_.submit(std::move(sequences));
}

// ---- the engine's thread ----

void Engine::Impl::loop() {
  for (;;) {
    inbox_.take(commands_, sequences_.empty());
    const bool stopping = commands_.stop;
    apply_commands();
    if (stopping) break;
    if (!failed_) {
      if (const auto failure = runner_->failure()) fail_engine(*failure);
    }
    make_switches();
    const uint64_t steps = stats_.steps;
    if (planner_->has_work()) step();
    balance_experts(stats_.steps != steps);
    publish_and_deliver();
  }
  for (const auto& [arrival, sequence] : sequences_) finish_early(*sequence, FinishReason::aborted);
  publish_and_deliver();
  for (const SwitchCommand& command : switches_) command.callback({.error = "the engine has stopped"});
  // The plan of a step that is still under way goes with the engine.
  if (is_ahead_ && !failed_) run([&] { runner_->synchronize(); });
}

void Engine::Impl::apply_commands() {
  for (std::unique_ptr<Sequence>& sequence : commands_.submitted) {
    planner_->add(*sequence);
    const uint64_t arrival = sequence->arrival;
    if (sequence->mask) masks_.start(sequence->mask, std::nullopt);
    sequences_.emplace(arrival, std::move(sequence));
  }
  for (const uint64_t arrival : commands_.aborted) {
    const auto found = sequences_.find(arrival);
    if (found != sequences_.end()) finish_early(*found->second, FinishReason::aborted);
  }
  std::ranges::move(commands_.switches, std::back_inserter(switches_));
  for (const auto& callback : commands_.expert_load_callbacks) callback(expert_load());
  for (RebalanceCallback& callback : commands_.rebalance_callbacks) {
    if (balancer_ == nullptr || failed_) {
      callback(nullptr);
    } else {
      balancer_->ask(std::move(callback));
    }
  }
  if (commands_.flush_prefix_cache) planner_->flush_prefix_cache();
  commands_.clear();
  if (failed_) fail_all("the model runner has failed");  // submitted before anyone could know
}

std::vector<int64_t> Engine::Impl::expert_load() {
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

void Engine::Impl::balance_experts(bool stepped) {
  if (balancer_ == nullptr || failed_) return;
  run([&] { balancer_->advance(stepped, planner_->has_work()); });
}

// Not while a step that was planned ahead is under way; then none is planned ahead until it is done.
void Engine::Impl::make_switches() {
  if (is_ahead_ && !failed_) return;
  for (SwitchCommand& command : std::exchange(switches_, {})) {
    SwitchResult result = make_switch(command);
    switched_.emplace_back(std::move(command.callback), std::move(result));
  }
}

SwitchResult Engine::Impl::make_switch(const SwitchCommand& command) {
  SwitchResult result;
  if (failed_) {
    result.error = "the model runner has failed";
    return result;
  }
  const auto start = std::chrono::steady_clock::now();
  try {
    const EngineOptions options =
        options_for(options_, logits_rows_, command.max_total_tokens, *command.next);
    std::vector<int64_t> load = expert_load();
    if (failed_) throw_error("the model runner has failed");
    use_runner(*command.next, switch_planner(*planner_, *runner_, *command.next, options, result));
    expert_load_of_others_ = std::move(load);
    stats_.kv_tokens_total = command.next->num_dp_groups() * options.max_total_tokens;
  } catch (const std::exception& error) {
    result.error = error.what();
    return result;
  }
  step_start_ = std::chrono::steady_clock::now();
  result.pause_seconds = std::chrono::duration<double>(step_start_ - start).count();
  ++stats_.switches;
  stats_.switch_pause_seconds += result.pause_seconds;
  return result;
}

// Everything that knows the groups of the runner is made anew. Texts are counted again for penalties, as they
// are after preemption.
void Engine::Impl::use_runner(ModelRunner& next, std::unique_ptr<StepPlanner> planner) {
  planner_ = std::move(planner);
  runner_ = &next;
  for (const auto& [arrival, sequence] : sequences_) {
    sequence->count_slot = -1;
    sequence->sampled_row = -1;
  }
  sampled_.assign(static_cast<size_t>(next.num_dp_groups()), {});
  chooser_.emplace(next, options_.eos_token_ids, masks_);
  const ExpertMoves moves = balancer_ != nullptr ? balancer_->report()->moves : ExpertMoves{};
  if (balancer_ != nullptr) balancer_->give_up();
  balancer_.reset();
  stats_.experts = nullptr;
  if (next.movable_experts() != nullptr) {
    balancer_ = std::make_unique<ExpertBalancer>(next, options_.eplb, moves);
  }
}

void Engine::Impl::step() {
  const PlannedStep* const planned = begin_step();
  if (planned == nullptr) return;
  planner_->commit();
  if (!run([&] { runner_->start_sampling(chooser_->plan(*planned)); })) return;
  if (options_.overlap_schedule && switches_.empty()) plan_ahead();
  if (!run([&] { collect(*planned); })) return;
  take_choices(*planned);
  const auto now = std::chrono::steady_clock::now();
  const std::chrono::duration<double> seconds = now - step_start_;
  step_start_ = now;
  ++stats_.steps;
  stats_.step_seconds[static_cast<size_t>(planned->phase)].observe(seconds.count());
}

// The next step, whose forward pass has begun; null when there is none, or the model has failed.
const PlannedStep* Engine::Impl::begin_step() {
  if (is_ahead_) {
    const PlannedStep* const planned = begin_ahead();
    if (planned != nullptr || failed_) return planned;
  }
  step_start_ = std::chrono::steady_clock::now();
  const PlannedStep& planned = planner_->plan();
  note_first_steps(planned, step_start_);
  masks_.help(kMaskHelp);
  return run([&] { runner_->forward(planned.plans); }) ? &planned : nullptr;
}

// The step that was planned ahead; null when all its sequences have ended, or the model has failed.
const PlannedStep* Engine::Impl::begin_ahead() {
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
  note_first_steps(*planned, std::chrono::steady_clock::now());
  return planned;
}

// A failure is for the requests of that step, not for those of this one.
void Engine::Impl::plan_ahead() {
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
void Engine::Impl::note_first_steps(const PlannedStep& step, std::chrono::steady_clock::time_point now) {
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
bool Engine::Impl::run(const Work& work) {
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    fail_engine(error.what());
    return false;
  }
}

// Throws Error when the runner gives more or fewer rows than were planned.
void Engine::Impl::collect(const PlannedStep& step) {
  runner_->collect(sampled_);
  for (size_t g = 0; g < step.plans.size(); ++g) {
    const size_t rows = step.plans[g]->logits_tokens.size();
    if (sampled_[g].tokens.size() != rows) {
      throw_error("{} rows were to be sampled, {} came", rows, sampled_[g].tokens.size());
    }
  }
}

void Engine::Impl::take_choices(const PlannedStep& step) {
  for (size_t g = 0; g < step.groups.size(); ++g) {
    for (const ScheduledSequence& scheduled : step.groups[g]->sequences) {
      if (scheduled.sequence == nullptr) continue;
      take_choice(*scheduled.sequence, chooser_->choose(scheduled, sampled_[g]));
    }
  }
}

void Engine::Impl::take_choice(Sequence& sequence, Choice choice) {
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

void Engine::Impl::append_token(Sequence& sequence, Choice choice) {
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

void Engine::Impl::finish(Sequence& sequence, GenerationEvent& event, FinishReason reason) {
  event.finish = reason;
  planner_->remove(sequence);
  chooser_->forget(sequence);
  count_finished(reason, stats_);
}

// Without a token. Does nothing when the sequence has just finished.
void Engine::Impl::finish_early(Sequence& sequence, FinishReason reason) {
  if (sequence.phase != Phase::finished) finish(sequence, outbox_.add(sequence), reason);
}

void Engine::Impl::fail(Sequence& sequence, RequestError error) {
  if (sequence.phase == Phase::finished) return;
  GenerationEvent& event = outbox_.add(sequence);
  event.error = std::move(error);
  finish(sequence, event, FinishReason::error);
}

void Engine::Impl::fail_engine(const std::string& why) {
  log::critical("the model runner failed, all requests end: {}", why);
  failed_ = true;
  fail_all(fmt::format("the model runner failed: {}", why));
}

void Engine::Impl::fail_all(const std::string& message) {
  for (const auto& [arrival, sequence] : sequences_)
    fail(*sequence, {.kind = RequestError::Kind::failed, .message = message});
}

void Engine::Impl::publish_and_deliver() {
  planner_->report(stats_);
  stats_.failed = failed_;
  if (balancer_ != nullptr) stats_.experts = balancer_->report();
  inbox_.publish(stats_, outbox_.entries());
  for (const auto& [callback, result] : switched_) callback(result);
  switched_.clear();
  if (balancer_ != nullptr) balancer_->tell();
  outbox_.deliver([this](const Sequence& sequence) { sequences_.erase(sequence.arrival); });
  inbox_.set_idle();
}

Engine::Engine(ModelRunner& runner, EngineOptions options)
    : impl_(std::make_unique<Impl>(runner, std::move(options))) {}

Engine::~Engine() = default;

std::optional<RequestError> Engine::submit(std::vector<Submission> submissions) {
  return impl_->submit(std::move(submissions));
}

std::optional<RequestError> Engine::submit(GenerationRequest request, EventListener listener) {
  std::vector<Submission> one;
  one.push_back({std::move(request), std::move(listener)});
  return impl_->submit(std::move(one));
}

void Engine::abort(std::string_view id) {
  impl_->inbox().abort(id);
}
void Engine::flush_prefix_cache() {
  impl_->inbox().flush_prefix_cache();
}
void Engine::get_expert_load(std::function<void(std::vector<int64_t>)> callback) {
  impl_->inbox().get_expert_load(std::move(callback));
}
void Engine::rebalance_experts(RebalanceCallback callback) {
  impl_->inbox().rebalance_experts(std::move(callback));
}
void Engine::switch_runner(ModelRunner& next, int64_t max_total_tokens, SwitchCallback callback) {
  impl_->inbox().switch_runner({&next, max_total_tokens, std::move(callback)});
}
void Engine::stop_accepting() {
  impl_->inbox().stop_accepting();
}
bool Engine::wait_idle(double timeout_seconds) {
  return impl_->inbox().wait_idle(timeout_seconds);
}
EngineStats Engine::stats() const {
  return impl_->inbox().stats();
}
const EngineOptions& Engine::options() const {
  return impl_->options();
}

}  // namespace chorale::engine
