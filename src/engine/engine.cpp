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
#include "base/sha256.h"
#include "base/thread_pool.h"
#include "engine/admission.h"
#include "engine/inbox.h"
#include "engine/outbox.h"
#include "engine/sequence.h"
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

EngineStats initial_stats(const EngineOptions& options, int64_t num_dp_groups) {
  EngineStats stats;
  stats.kv_tokens_total = num_dp_groups * options.max_total_tokens;
  return stats;
}

// Not to be met by another salt, whoever chooses it.
Hash128 cache_root(const std::string& salt) {
  if (salt.empty()) return {};
  const std::string digest = sha256_hex(salt);
  const auto word = [&](size_t at) { return std::stoull(digest.substr(at, 16), nullptr, 16); };
  return {word(0), word(16)};
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
  const EngineOptions options_;
  const int64_t vocab_size_;
  Inbox inbox_;  // shared with all threads

  // The engine's thread alone.
  EngineCommands commands_;                                            // what is being done of them
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by arrival
  StepPlanner planner_;
  std::vector<SampledStep> sampled_;  // [dp_size], of the step
  // The forward pass of the planner's next step is under way, or could not begin for this reason.
  bool is_ahead_ = false;
  std::optional<std::string> ahead_failure_;
  std::chrono::steady_clock::time_point step_start_;  // or the end of the one before, where that is later
  MaskWorkers masks_{mask_threads()};
  TokenChooser chooser_;
  Outbox outbox_;
  EngineStats stats_;  // what is published
  bool failed_ = false;

  std::thread thread_;  // last: it uses everything above
};

Engine::Impl::Impl(ModelRunner& runner, EngineOptions options)
    : runner_(&runner),
      options_(checked_options(std::move(options), runner)),
      vocab_size_(runner.vocab_size()),
      inbox_(options_, initial_stats(options_, runner.num_dp_groups())),
      planner_(options_, runner.num_dp_groups()),
      sampled_(static_cast<size_t>(runner.num_dp_groups())),
      chooser_(runner, options_.eos_token_ids, masks_),
      stats_(initial_stats(options_, runner.num_dp_groups())) {
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
    if (planner_.has_work()) step();
    publish_and_deliver();
  }
  for (const auto& [arrival, sequence] : sequences_) finish_early(*sequence, FinishReason::aborted);
  publish_and_deliver();
  // The plan of a step that is still under way goes with the engine.
  if (is_ahead_ && !failed_) run([&] { runner_->synchronize(); });
}

void Engine::Impl::apply_commands() {
  for (std::unique_ptr<Sequence>& sequence : commands_.submitted) {
    planner_.add(*sequence);
    const uint64_t arrival = sequence->arrival;
    if (sequence->mask) masks_.start(sequence->mask, std::nullopt);
    sequences_.emplace(arrival, std::move(sequence));
  }
  for (const uint64_t arrival : commands_.aborted) {
    const auto found = sequences_.find(arrival);
    if (found != sequences_.end()) finish_early(*found->second, FinishReason::aborted);
  }
  for (const auto& callback : commands_.expert_load_callbacks) callback(expert_load());
  if (commands_.flush_prefix_cache) planner_.flush_prefix_cache();
  commands_.clear();
  if (failed_) fail_all("the model runner has failed");  // submitted before anyone could know
}

std::vector<int64_t> Engine::Impl::expert_load() {
  if (failed_) return {};
  try {
    return runner_->expert_load();
  } catch (const std::exception& error) {
    fail_engine(error.what());
    return {};
  }
}

void Engine::Impl::step() {
  const PlannedStep* const planned = begin_step();
  if (planned == nullptr) return;
  planner_.commit();
  if (!run([&] { runner_->start_sampling(chooser_.plan(*planned)); })) return;
  if (options_.overlap_schedule) plan_ahead();
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
  const PlannedStep& planned = planner_.plan();
  note_first_steps(planned, step_start_);
  masks_.help(kMaskHelp);
  return run([&] { runner_->forward(planned.plans); }) ? &planned : nullptr;
}

// The step that was planned ahead; null when all its sequences have ended, or the model has failed.
const PlannedStep* Engine::Impl::begin_ahead() {
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
  note_first_steps(*planned, std::chrono::steady_clock::now());
  return planned;
}

// A failure is for the requests of that step, not for those of this one.
void Engine::Impl::plan_ahead() {
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
      take_choice(*scheduled.sequence, chooser_.choose(scheduled, sampled_[g]));
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
  planner_.report(stats_);
  stats_.failed = failed_;
  inbox_.publish(stats_, outbox_.entries());
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
