#include "engine/inbox.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <random>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/random.h"
#include "engine/admission.h"

namespace chorale::engine {
namespace {

uint64_t fresh_entropy() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

bool EngineCommands::empty() const {
  return submitted.empty() && aborted.empty() && expert_load_callbacks.empty() &&
         rebalance_callbacks.empty() && switches.empty() && works.empty() && !flush_prefix_cache && !stop;
}

void EngineCommands::clear() {
  submitted.clear();
  aborted.clear();
  expert_load_callbacks.clear();
  rebalance_callbacks.clear();
  switches.clear();
  works.clear();
  flush_prefix_cache = stop = false;
}

Inbox::Inbox(const EngineOptions& options, const EngineStats& stats, Clock clock)
    : options_(options), entropy_(fresh_entropy()), clock_(std::move(clock)), stats_(stats) {}

std::optional<RequestError> Inbox::submit(std::vector<std::unique_ptr<Sequence>> sequences) {
  {
    const std::lock_guard lock(mutex_);
    if (auto error = refuse(sequences)) return error;
    const uint64_t submission = next_arrival_;
    for (auto& sequence : sequences) {
      sequence->submission = submission;
      enqueue(std::move(sequence));
    }
  }
  wake_.notify_one();
  return std::nullopt;
}

void Inbox::enqueue(std::unique_ptr<Sequence> sequence) {
  const GenerationRequest& request = sequence->request;
  sequence->arrival = next_arrival_++;
  sequence->submitted = clock_();
  sequence->seed = request.sampling.seed.value_or(random_bits(entropy_, 0, sequence->arrival));
  const bool is_new = live_.emplace(request.id, sequence->arrival).second;
  CHORALE_CHECK(is_new, "two requests have the id '{}'", request.id);
  commands_.submitted.push_back(std::move(sequence));
  ++stats_.waiting;
}

std::optional<RequestError> Inbox::refuse(std::span<const std::unique_ptr<Sequence>> sequences) const {
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

void Inbox::abort(std::string_view id) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(std::string(id));
    if (found == live_.end()) return;
    commands_.aborted.push_back(found->second);
  }
  wake_.notify_one();
}

void Inbox::flush_prefix_cache() {
  {
    const std::lock_guard lock(mutex_);
    commands_.flush_prefix_cache = true;
  }
  wake_.notify_one();
}

void Inbox::get_expert_load(std::function<void(std::vector<int64_t>)> callback) {
  {
    const std::lock_guard lock(mutex_);
    commands_.expert_load_callbacks.push_back(std::move(callback));
  }
  wake_.notify_one();
}

void Inbox::rebalance_experts(RebalanceCallback callback) {
  {
    const std::lock_guard lock(mutex_);
    commands_.rebalance_callbacks.push_back(std::move(callback));
  }
  wake_.notify_one();
}

void Inbox::switch_runner(SwitchCommand command) {
  {
    const std::lock_guard lock(mutex_);
    commands_.switches.push_back(std::move(command));
  }
  wake_.notify_one();
}

void Inbox::between_steps(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    commands_.works.push_back(std::move(work));
  }
  wake_.notify_one();
}

void Inbox::stop_accepting() {
  const std::lock_guard lock(mutex_);
  accepting_ = false;
}

void Inbox::stop() {
  {
    const std::lock_guard lock(mutex_);
    accepting_ = false;
    commands_.stop = true;
  }
  wake_.notify_one();
}

// A thread waits by the machine's clock, whichever the engine goes by.
bool Inbox::wait_idle(double timeout_seconds) {
  constexpr double kLongest = 1e8;  // three years: far from the clock's overflow
  const auto timeout = std::chrono::duration<double>(std::clamp(timeout_seconds, 0.0, kLongest));
  const auto deadline = std::chrono::steady_clock::now() +
                        std::chrono::duration_cast<std::chrono::steady_clock::duration>(timeout);
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline,
                          [&] { return live_.empty() && !busy_ && !commands_.flush_prefix_cache; });
}

EngineStats Inbox::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Inbox::take(EngineCommands& commands, std::chrono::milliseconds longest_sleep) {
  std::unique_lock lock(mutex_);
  if (longest_sleep.count() > 0) wake_.wait_for(lock, longest_sleep, [&] { return !commands_.empty(); });
  std::swap(commands, commands_);
  busy_ = true;
}

void Inbox::publish(EngineStats stats, std::span<const Outbox::Entry> events) {
  const std::lock_guard lock(mutex_);
  stats.waiting += std::ssize(commands_.submitted);
  stats_ = stats;
  for (const Outbox::Entry& entry : events) {
    if (entry.is_last()) live_.erase(entry.sequence->request.id);
  }
}

void Inbox::set_idle() {
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
  }
  idle_.notify_all();
}

}  // namespace chorale::engine
