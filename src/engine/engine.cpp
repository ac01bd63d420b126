#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "engine/admission.h"
#include "engine/block_manager.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

namespace chorale::engine {
namespace {

constexpr std::chrono::milliseconds kIdleCheck{500};
constexpr int kMaxMaskThreads = 4;
// How long the engine's thread makes masks before the next forward pass begins: some dozens of easy ones.
constexpr std::chrono::microseconds kMaskHelp{500};

// The engine's thread makes masks, too. More threads than that find no core that is free.
int mask_threads() {
  return std::min(available_cores() / 2, kMaxMaskThreads);
}

uint64_t fresh_entropy() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

class Engine::Impl {
 public:
  Impl(ModelRunner& runner, EngineOptions options);
  ~Impl();

  std::optional<RequestError> submit(std::vector<Submission> submissions);
  void abort(std::string_view id);
  void flush_prefix_cache();
  void get_expert_load(std::function<void(std::vector<int64_t>)> callback);
  void stop_accepting();
  bool wait_idle(double timeout_seconds);
  EngineStats stats() const;
  const EngineOptions& options() const { return options_; }

 private:
  struct Delivery {
    Sequence* sequence = nullptr;
    GenerationEvent event;
  };

  // The engine's thread.
  void loop();
  bool take_commands();
  void apply_commands();
  std::vector<int64_t> expert_load();
  bool has_work() const;
  size_t least_busy_group() const;
  void step();
  bool run_step();
  StepPhase take_plan_in(std::chrono::steady_clock::time_point now);
  void take_rows(const ScheduledSequence& scheduled, std::span<const float> rows);
  bool score_prompt(Sequence& sequence, int64_t num_rows, std::span<const float> rows);
  void append_token(Sequence& sequence, std::span<const float> row);
  GenerationEvent& add_event(Sequence& sequence);
  void finish(Sequence& sequence, GenerationEvent& event, FinishReason reason);
  void finish_early(Sequence& sequence, FinishReason reason);
  void fail(Sequence& sequence, RequestError error);
  void fail_for_bad_logits(Sequence& sequence);
  void fail_engine(const std::string& why);
  void fail_all(const std::string& message);
  void publish_and_deliver();

  // Under mutex_.
  std::optional<RequestError> refuse(std::span<const std::unique_ptr<Sequence>> sequences) const;
  void enqueue(std::unique_ptr<Sequence> sequence);

  ModelRunner* runner_;
  const EngineOptions options_;
  const int64_t vocab_size_;
  const uint64_t entropy_;

  // Shared, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::unique_ptr<Sequence>> incoming_;
  std::vector<uint64_t> aborts_;  // by arrival, because an id may be taken again at once
  // Id -> arrival, until the request's last event is about to be delivered.
  std::unordered_map<std::string, uint64_t> live_;
  uint64_t next_arrival_ = 0;
  bool flush_requested_ = false;
  std::vector<std::function<void(std::vector<int64_t>)>> load_callbacks_;
  bool accepting_ = true;
  bool stopping_ = false;
  bool busy_ = false;  // the thread is between taking commands and having delivered what came of them
  EngineStats stats_;

  // A data-parallel group: sequences and a KV cache of its own.
  struct Group {
    Group(const EngineOptions& options, int64_t num_groups)
        : blocks(options.max_total_tokens / kBlockTokens, options.enable_prefix_cache),
          scheduler(blocks, {.chunked_prefill_size = options.chunked_prefill_size,
                             .max_running_requests = ceil_div(options.max_running_requests, num_groups),
                             .max_logits_rows = options.max_logits_rows}) {}
    int64_t num_sequences() const { return scheduler.num_running() + scheduler.num_waiting(); }

    BlockManager blocks;
    Scheduler scheduler;
    const ScheduledStep* step = nullptr;  // the one that is being run
  };

  // The engine's thread alone.
  std::vector<std::unique_ptr<Group>> groups_;
  std::vector<const StepPlan*> plans_;          // of the groups
  std::vector<std::span<const float>> logits_;  // likewise
  Sampler sampler_;
  MaskWorkers masks_{mask_threads()};
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by arrival
  std::vector<std::unique_ptr<Sequence>> taken_;
  std::vector<uint64_t> taken_aborts_;
  std::vector<std::function<void(std::vector<int64_t>)>> taken_load_callbacks_;
  bool taken_flush_ = false;
  bool failed_ = false;
  std::vector<Delivery> deliveries_;
  EngineStats counters_;  // what becomes stats_

  std::thread thread_;  // last: it uses everything above
};

Engine::Impl::Impl(ModelRunner& runner, EngineOptions options)
    : runner_(&runner),
      options_(checked_options(std::move(options), runner)),
      vocab_size_(runner.vocab_size()),
      entropy_(fresh_entropy()),
      sampler_(vocab_size_) {
  const int64_t num_groups = runner.num_groups();
  for (int64_t g = 0; g < num_groups; ++g) groups_.push_back(std::make_unique<Group>(options_, num_groups));
  plans_.resize(groups_.size());
  logits_.resize(groups_.size());
  stats_.kv_tokens_total = counters_.kv_tokens_total = num_groups * options_.max_total_tokens;
  thread_ = std::thread([this] { loop(); });
}

Engine::Impl::~Impl() {
  {
    const std::lock_guard lock(mutex_);
    accepting_ = false;
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

// ---- any thread ----

std::optional<RequestError> Engine::Impl::submit(std::vector<Submission> submissions) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (Submission& submission : submissions) {
    if (auto error = submission.request.validate(vocab_size_)) return error;
    auto sequence = std::make_unique<Sequence>(std::move(submission.request), std::move(submission.listener));
    if (auto error = check_length(options_, *sequence)) return error;
    sequence->max_output = output_limit(options_, *sequence);
    if (const ConstraintFactory& constraint = sequence->request.constraint) {
      sequence->mask = std::make_shared<MaskTask>(constraint(), vocab_size_);
    }
    sequences.push_back(std::move(sequence));
  }
  {
    const std::lock_guard lock(mutex_);
    if (auto error = refuse(sequences)) return error;
    for (auto& sequence : sequences) enqueue(std::move(sequence));
  }
  wake_.notify_one();
  return std::nullopt;
}

void Engine::Impl::enqueue(std::unique_ptr<Sequence> sequence) {
  const GenerationRequest& request = sequence->request;
  sequence->arrival = next_arrival_++;
  sequence->submitted = std::chrono::steady_clock::now();
  sequence->seed = request.sampling.seed.value_or(random_bits(entropy_, 0, sequence->arrival));
  const bool is_new = live_.emplace(request.id, sequence->arrival).second;
  CHORALE_CHECK(is_new, "two requests have the id '{}'", request.id);
  incoming_.push_back(std::move(sequence));
  ++stats_.waiting;
}

std::optional<RequestError> Engine::Impl::refuse(std::span<const std::unique_ptr<Sequence>> sequences) const {
  if (stats_.failed)
    return RequestError{.kind = RequestError::Kind::unavailable,
                        .message = "the model runner has failed; the server must be restarted"};
  if (!accepting_)
    return RequestError{.kind = RequestError::Kind::unavailable,
                        .message = "the server is shutting down and takes no new requests"};
  if (auto error = check_queue(options_, stats_.waiting, std::ssize(sequences))) return error;
  for (const auto& sequence : sequences) {
    const std::string& id = sequence->request.id;
    if (live_.contains(id))
      return RequestError{.kind = RequestError::Kind::invalid,
                          .message = fmt::format("a request with id '{}' is still running", id),
                          .param = "id"};
  }
  return std::nullopt;
}

void Engine::Impl::abort(std::string_view id) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(std::string(id));
    if (found == live_.end()) return;
    aborts_.push_back(found->second);
  }
  wake_.notify_one();
}

void Engine::Impl::flush_prefix_cache() {
  {
    const std::lock_guard lock(mutex_);
    flush_requested_ = true;
  }
  wake_.notify_one();
}

void Engine::Impl::get_expert_load(std::function<void(std::vector<int64_t>)> callback) {
  {
    const std::lock_guard lock(mutex_);
    load_callbacks_.push_back(std::move(callback));
  }
  wake_.notify_one();
}

void Engine::Impl::stop_accepting() {
  const std::lock_guard lock(mutex_);
  accepting_ = false;
}

bool Engine::Impl::wait_idle(double timeout_seconds) {
  constexpr double kLongest = 1e8;  // three years: far from the clock's overflow
  const auto timeout = std::chrono::duration<double>(std::clamp(timeout_seconds, 0.0, kLongest));
  const auto deadline = std::chrono::steady_clock::now() +
                        std::chrono::duration_cast<std::chrono::steady_clock::duration>(timeout);
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [&] { return live_.empty() && !busy_ && !flush_requested_; });
}

EngineStats Engine::Impl::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

// ---- the engine's thread ----

void Engine::Impl::loop() {
  for (;;) {
    const bool stopping = take_commands();
    apply_commands();
    if (stopping) break;
    if (!failed_) {
      if (const auto failure = runner_->failure()) fail_engine(*failure);
    }
    if (has_work()) step();
    publish_and_deliver();
  }
  for (const auto& [arrival, sequence] : sequences_) finish_early(*sequence, FinishReason::aborted);
  publish_and_deliver();
}

// Sleeps until there is something to do, then takes what was asked for. True when the engine is to stop.
bool Engine::Impl::take_commands() {
  std::unique_lock lock(mutex_);
  if (sequences_.empty()) {
    // Not for ever: an idle server notices when a rank has died.
    wake_.wait_for(lock, kIdleCheck, [&] {
      return stopping_ || flush_requested_ || !incoming_.empty() || !aborts_.empty() ||
             !load_callbacks_.empty();
    });
  }
  taken_.swap(incoming_);
  taken_aborts_.swap(aborts_);
  taken_load_callbacks_.swap(load_callbacks_);
  taken_flush_ = std::exchange(flush_requested_, false);
  busy_ = true;
  return stopping_;
}

void Engine::Impl::apply_commands() {
  for (std::unique_ptr<Sequence>& sequence : taken_) {
    sequence->group = least_busy_group();
    groups_[sequence->group]->scheduler.add(*sequence);
    const uint64_t arrival = sequence->arrival;
    if (sequence->mask) masks_.start(sequence->mask, std::nullopt);
    sequences_.emplace(arrival, std::move(sequence));
  }
  taken_.clear();
  for (const uint64_t arrival : taken_aborts_) {
    const auto found = sequences_.find(arrival);
    if (found != sequences_.end()) finish_early(*found->second, FinishReason::aborted);
  }
  taken_aborts_.clear();
  for (const auto& callback : taken_load_callbacks_) callback(expert_load());
  taken_load_callbacks_.clear();
  if (taken_flush_) {
    for (const auto& group : groups_) group->blocks.flush();
  }
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

bool Engine::Impl::has_work() const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [](const auto& group) { return group->num_sequences() > 0; });
}

// By the number of its sequences; of equal ones the first, so that requests go round.
size_t Engine::Impl::least_busy_group() const {
  const auto least = std::min_element(groups_.begin(), groups_.end(), [](const auto& a, const auto& b) {
    return a->num_sequences() < b->num_sequences();
  });
  return static_cast<size_t>(least - groups_.begin());
}

// All groups take part in every step, because their ranks share the experts.
void Engine::Impl::step() {
  const auto start = std::chrono::steady_clock::now();
  for (size_t g = 0; g < groups_.size(); ++g) {
    groups_[g]->step = &groups_[g]->scheduler.schedule();
    plans_[g] = &groups_[g]->step->plan;
  }
  const StepPhase phase = take_plan_in(start);
  if (!run_step()) return;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ++counters_.steps;
  counters_.step_seconds[static_cast<size_t>(phase)].observe(seconds.count());
}

// What the step is, and whose first one it is.
StepPhase Engine::Impl::take_plan_in(std::chrono::steady_clock::time_point now) {
  bool prefills = false;
  bool decodes = false;
  for (const auto& group : groups_) {
    for (const ScheduledSequence& scheduled : group->step->sequences) {
      Sequence& sequence = *scheduled.sequence;
      (sequence.is_decoding() ? decodes : prefills) = true;
      if (sequence.queue_seconds >= 0) continue;
      sequence.queue_seconds = std::chrono::duration<double>(now - sequence.submitted).count();
      counters_.queue_seconds.observe(sequence.queue_seconds);
    }
  }
  if (!decodes) return StepPhase::prefill;
  return prefills ? StepPhase::mixed : StepPhase::decode;
}

// False when the model has failed.
bool Engine::Impl::run_step() {
  masks_.help(kMaskHelp);
  try {
    runner_->run_groups(plans_, logits_);
    for (size_t g = 0; g < groups_.size(); ++g) {
      const size_t expected = plans_[g]->logits_tokens.size() * static_cast<size_t>(vocab_size_);
      if (logits_[g].size() != expected) {
        throw_error("{} logits were expected, {} came", expected, logits_[g].size());
      }
    }
  } catch (const std::exception& error) {
    fail_engine(error.what());
    return false;
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    groups_[g]->scheduler.commit();
    for (const ScheduledSequence& scheduled : groups_[g]->step->sequences) {
      const auto first = static_cast<size_t>(scheduled.first_row * vocab_size_);
      take_rows(scheduled, logits_[g].subspan(first, static_cast<size_t>(scheduled.num_rows * vocab_size_)));
    }
  }
  return true;
}

void Engine::Impl::take_rows(const ScheduledSequence& scheduled, std::span<const float> rows) {
  Sequence& sequence = *scheduled.sequence;
  if (sequence.next_prompt_logprob < sequence.num_prompt &&
      !score_prompt(sequence, scheduled.num_rows, rows)) {
    return fail_for_bad_logits(sequence);
  }
  if (sequence.num_remaining() == 0) append_token(sequence, rows.last(static_cast<size_t>(vocab_size_)));
}

// The row of position p scores the token at p + 1. False for bad logits.
bool Engine::Impl::score_prompt(Sequence& sequence, int64_t num_rows, std::span<const float> rows) {
  const int64_t first_position = sequence.num_computed - num_rows;
  const int32_t num_top = std::max(sequence.request.num_top_logprobs, 0);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t target = first_position + i + 1;
    if (target >= sequence.num_prompt) break;
    CHORALE_CHECK(target == sequence.next_prompt_logprob, "position {} was to be scored next, not {}",
                  sequence.next_prompt_logprob, target);
    const auto row = rows.subspan(static_cast<size_t>(i * vocab_size_), static_cast<size_t>(vocab_size_));
    auto scored = sampler_.logprobs(row, sequence.tokens[static_cast<size_t>(target)], num_top);
    if (!scored) return false;
    sequence.prompt_logprobs.push_back(std::move(*scored));
    ++sequence.next_prompt_logprob;
  }
  return true;
}

void Engine::Impl::append_token(Sequence& sequence, std::span<const float> row) {
  const SamplingParams& params = sequence.request.sampling;
  std::span<const uint32_t> allowed;
  if (sequence.mask) {
    masks_.wait(*sequence.mask);
    if (const auto& error = sequence.mask->error()) return fail(sequence, *error);
    allowed = sequence.mask->mask();
  }
  const Sampled sampled = sampler_.sample({.logits = row,
                                           .params = params,
                                           .seed = sequence.seed,
                                           .prompt = sequence.prompt(),
                                           .output = sequence.output(),
                                           .eos_token_ids = options_.eos_token_ids,
                                           .allowed = allowed});
  if (sampled.status == SampleStatus::bad_logits) return fail_for_bad_logits(sequence);
  if (sampled.status == SampleStatus::all_masked) {
    return fail(sequence, {.kind = RequestError::Kind::invalid,
                           .message = "no token is left that is allowed before min_new_tokens",
                           .param = "min_new_tokens"});
  }
  sequence.tokens.push_back(sampled.token);
  ++counters_.generated_tokens;

  GenerationEvent& event = add_event(sequence);
  event.token_ids.push_back(sampled.token);
  if (sequence.request.num_top_logprobs >= 0) {
    auto scored = sampler_.logprobs(row, sampled.token, sequence.request.num_top_logprobs);
    if (scored) event.logprobs.push_back(std::move(*scored));
  }
  const bool is_end = sequence.mask && std::ranges::find(options_.eos_token_ids, sampled.token) !=
                                           options_.eos_token_ids.end();
  if (is_end || is_stop_token(sampled.token, params, options_.eos_token_ids)) {
    event.matched_stop_token = sampled.token;
    finish(sequence, event, FinishReason::stop);
  } else if (sequence.num_output() >= sequence.max_output) {
    finish(sequence, event, FinishReason::length);
  } else if (sequence.mask) {
    masks_.start(sequence.mask, sampled.token);  // while the tokens of the others are sampled
  }
}

// The reference is valid until the next event is added.
GenerationEvent& Engine::Impl::add_event(Sequence& sequence) {
  GenerationEvent& event = deliveries_.emplace_back(Delivery{&sequence, {}}).event;
  event.prompt_logprobs = std::exchange(sequence.prompt_logprobs, {});
  event.num_prompt_tokens = sequence.num_prompt;
  event.num_completion_tokens = sequence.num_output();
  event.num_cached_tokens = std::max<int64_t>(sequence.num_cached, 0);
  event.queue_seconds = std::max(sequence.queue_seconds, 0.0);
  return event;
}

void Engine::Impl::finish(Sequence& sequence, GenerationEvent& event, FinishReason reason) {
  event.finish = reason;
  groups_[sequence.group]->scheduler.remove(sequence);
  switch (reason) {
    case FinishReason::none:
      CHORALE_CHECK(false, "a sequence needs a reason to finish");
      break;
    case FinishReason::stop:
      ++counters_.finished_stop;
      break;
    case FinishReason::length:
      ++counters_.finished_length;
      break;
    case FinishReason::aborted:
      ++counters_.finished_aborted;
      break;
    case FinishReason::error:
      ++counters_.finished_error;
      break;
  }
}

// Without a token. Does nothing when the sequence has just finished.
void Engine::Impl::finish_early(Sequence& sequence, FinishReason reason) {
  if (sequence.phase != Phase::finished) finish(sequence, add_event(sequence), reason);
}

void Engine::Impl::fail(Sequence& sequence, RequestError error) {
  if (sequence.phase == Phase::finished) return;
  GenerationEvent& event = add_event(sequence);
  event.error = std::move(error);
  finish(sequence, event, FinishReason::error);
}

void Engine::Impl::fail_for_bad_logits(Sequence& sequence) {
  fail(sequence, {.kind = RequestError::Kind::failed, .message = "the model produced NaN logits"});
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

// What others can see is up to date before a listener hears of it: on its last event a request is no longer
// live.
void Engine::Impl::publish_and_deliver() {
  int64_t waiting = 0;
  counters_.running = counters_.kv_tokens_used = counters_.kv_tokens_cached = 0;
  counters_.prompt_tokens = counters_.cached_tokens = counters_.prefix_queries = counters_.preemptions = 0;
  for (const auto& group : groups_) {
    const SchedulerCounters& counted = group->scheduler.counters();
    waiting += group->scheduler.num_waiting();
    counters_.running += group->scheduler.num_running();
    counters_.kv_tokens_used += group->blocks.num_used() * kBlockTokens;
    counters_.kv_tokens_cached += group->blocks.num_cached() * kBlockTokens;
    counters_.prompt_tokens += counted.prompt_tokens;
    counters_.cached_tokens += counted.cached_tokens;
    counters_.prefix_queries += counted.prefix_queries;
    counters_.preemptions += counted.preemptions;
  }
  counters_.failed = failed_;
  {
    const std::lock_guard lock(mutex_);
    counters_.waiting = waiting + static_cast<int64_t>(incoming_.size());
    stats_ = counters_;
    for (const Delivery& delivery : deliveries_) {
      if (delivery.event.finish != FinishReason::none) live_.erase(delivery.sequence->request.id);
    }
  }
  for (Delivery& delivery : deliveries_) {
    const bool last = delivery.event.finish != FinishReason::none;
    delivery.sequence->listener(std::move(delivery.event));
    if (last) sequences_.erase(delivery.sequence->arrival);
  }
  deliveries_.clear();
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
  }
  idle_.notify_all();
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
  impl_->abort(id);
}
void Engine::flush_prefix_cache() {
  impl_->flush_prefix_cache();
}
void Engine::get_expert_load(std::function<void(std::vector<int64_t>)> callback) {
  impl_->get_expert_load(std::move(callback));
}
void Engine::stop_accepting() {
  impl_->stop_accepting();
}
bool Engine::wait_idle(double timeout_seconds) {
  return impl_->wait_idle(timeout_seconds);
}
EngineStats Engine::stats() const {
  return impl_->stats();
}
const EngineOptions& Engine::options() const {
  return impl_->options();
}

}  // namespace chorale::engine
