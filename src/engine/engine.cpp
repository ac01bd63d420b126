#include "engine/engine.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "engine/admission.h"
#include "engine/engine_core.h"
#include "engine/inbox.h"

namespace chorale::engine {
namespace {

constexpr int kMaxMaskThreads = 4;

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
  Impl(ModelRunner& runner, EngineOptions options, Clock clock);
  ~Impl();

  std::optional<RequestError> submit(std::vector<Submission> submissions);
  Inbox& inbox() { return inbox_; }
  const Inbox& inbox() const { return inbox_; }
  const EngineOptions& options() const { return core_.options(); }

 private:
  // The engine's thread.
  void loop();
  void apply_commands();
  void publish_and_deliver();

  EngineCore core_;          // the engine's thread alone, but for what never changes
  Inbox inbox_;              // shared with all threads
  EngineCommands commands_;  // what is being done of them; the engine's thread alone

  std::thread thread_;  // last: it uses everything above
};

Engine::Impl::Impl(ModelRunner& runner, EngineOptions options, Clock clock)
    : core_(runner, std::move(options), clock, mask_threads()),
      inbox_(core_.options(), core_.stats(), std::move(clock)) {
  thread_ = std::thread([this] { loop(); });
}

Engine::Impl::~Impl() {
  inbox_.stop();
  thread_.join();
}

std::optional<RequestError> Engine::Impl::submit(std::vector<Submission> submissions) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (Submission& submission : submissions) {
    std::unique_ptr<Sequence>& sequence = sequences.emplace_back();
    if (auto error = make_sequence(std::move(submission), core_.options(), core_.vocab_size(), sequence))
      return error;
  }
  return inbox_.submit(std::move(sequences));
}

// ---- the engine's thread ----

void Engine::Impl::loop() {
  for (;;) {
    inbox_.take(commands_, core_.longest_sleep());
    const bool stopping = commands_.stop;
    apply_commands();
    if (stopping) break;
    core_.check_runner();
    core_.make_switches();
    core_.step();
    publish_and_deliver();
  }
  core_.abort_all();
  publish_and_deliver();
  core_.stop();
}

void Engine::Impl::apply_commands() {
  for (std::unique_ptr<Sequence>& sequence : commands_.submitted) core_.add(std::move(sequence));
  for (const uint64_t arrival : commands_.aborted) core_.abort(arrival);
  for (const auto& work : commands_.works) core_.do_work(work);
  for (SwitchCommand& command : commands_.switches) core_.switch_runner(std::move(command));
  for (const auto& callback : commands_.expert_load_callbacks) callback(core_.expert_load());
  for (RebalanceCallback& callback : commands_.rebalance_callbacks) core_.rebalance(std::move(callback));
  if (commands_.flush_prefix_cache) core_.flush_prefix_cache();
  commands_.clear();
  if (core_.failed()) core_.fail_all("the model runner has failed");  // submitted before anyone could know
}

void Engine::Impl::publish_and_deliver() {
  inbox_.publish(core_.stats(), core_.events());
  core_.deliver();
  inbox_.set_idle();
}

Engine::Engine(ModelRunner& runner, EngineOptions options, Clock clock)
    : impl_(std::make_unique<Impl>(runner, std::move(options), std::move(clock))) {}

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
void Engine::between_steps(std::function<void()> work) {
  impl_->inbox().between_steps(std::move(work));
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
