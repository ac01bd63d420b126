#include "engine/strategy_controller.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "parallel/strategy.h"

namespace chorale::engine {
namespace {

constexpr double kHour = 3600;           // for which a strategy that was refused is not asked for again
constexpr double kMostSeconds = 1;       // from one snapshot to the next
constexpr double kSnapshotsOfALook = 8;  // at least

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string percent(double share) {
  return fmt::format("{:.1f}%", 100 * share);
}

}  // namespace

// Shared with callbacks that the engine may still hold.
struct StrategyController::ExpertCounts {
  std::mutex mutex;
  std::vector<int64_t> counts;
};

StrategyController::StrategyController(Engine& engine, StrategySwitch& strategy_switch, StrategyPolicy policy,
                                       std::vector<StrategyModel> models, size_t num_experts)
    : engine_(engine),
      switch_(strategy_switch),
      policy_(std::move(policy)),
      num_experts_(num_experts),
      models_(std::move(models)),
      refused_at_(models_.size(), -std::numeric_limits<double>::infinity()),
      expert_counts_(std::make_shared<ExpertCounts>()) {
  CHORALE_CHECK(models_.size() == policy_.strategies.size() && policy_.interval > 0,
                "{} models of {} strategies", models_.size(), policy_.strategies.size());
  for (const parallel::Strategy& strategy : policy_.strategies)
    names_.push_back(parallel::to_string(strategy));
  report_.switches_left = policy_.max_switches_per_hour;
  thread_ = std::thread([this] { loop(); });
}

StrategyController::~StrategyController() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

PolicyReport StrategyController::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

// False: it is to end.
bool StrategyController::wait(double seconds) {
  std::unique_lock lock(mutex_);
  return !stopped_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return stop_; });
}

void StrategyController::loop() {
  const double step = std::min(policy_.interval / kSnapshotsOfALook, kMostSeconds);
  window_.add(engine_.stats());
  window_.take();
  double next_look = seconds_now() + policy_.interval;
  while (wait(step)) {
    window_.add(engine_.stats());
    const double now = seconds_now();
    if (now < next_look) continue;
    look(now);
    next_look = seconds_now() + policy_.interval;
  }
}

// Nothing, where an administrator has chosen one that the policy does not have.
std::optional<size_t> StrategyController::current() const {
  const auto found = std::find(names_.begin(), names_.end(), switch_.current());
  if (found == names_.end()) return std::nullopt;
  return static_cast<size_t>(found - names_.begin());
}

void StrategyController::look(double now) {
  LoadSample load = window_.take();
  load.expert_share = take_expert_share();
  const std::optional<size_t> in_force = current();
  if (!in_force) {
    state_.looks = 0;
    const std::string line =
        fmt::format("{} is none of the policy's strategies, and stays", switch_.current());
    if (last_line_ != line) log::info("strategy policy: {}", line);
    last_line_ = line;
    return;
  }
  const PolicyDecision decision = decide(policy_, predict(load, *in_force, now), *in_force, now, state_);
  state_ = decision.next;
  {
    const std::lock_guard lock(mutex_);
    ++report_.decisions[static_cast<size_t>(decision.outcome)];
    report_.saving = decision.saving;
    report_.switches_left =
        std::max(policy_.max_switches_per_hour - static_cast<int>(state_.switches.size()), 0);
  }
  tell(decision, *in_force, load);
  if (decision.outcome == PolicyOutcome::switching) make_switch(decision.favourite, now);
}

// Since the last look but one: the engine answers between two steps.
std::vector<double> StrategyController::take_expert_share() {
  if (num_experts_ == 0) return {};
  std::vector<int64_t> counts;
  {
    const std::lock_guard lock(expert_counts_->mutex);
    counts = expert_counts_->counts;
  }
  engine_.get_expert_load([shared = expert_counts_](std::vector<int64_t> fresh) {
    const std::lock_guard lock(shared->mutex);
    shared->counts = std::move(fresh);
  });
  const std::vector<int64_t> before = std::exchange(last_counts_, counts);
  return expert_share(before, counts, num_experts_);
}

std::vector<double> StrategyController::predict(const LoadSample& load, size_t current, double now) {
  std::vector<double> seconds;
  if (load.is_idle()) return seconds;
  for (size_t i = 0; i < models_.size(); ++i) {
    const bool is_refused = i != current && now - refused_at_[i] < kHour;
    seconds.push_back(is_refused ? std::numeric_limits<double>::infinity()
                                 : predicted_seconds(models_[i], load, policy_.objective));
  }
  return seconds;
}

// One line each; those that say what the line before said are for the level debug.
void StrategyController::tell(const PolicyDecision& decision, size_t current, const LoadSample& load) {
  const std::string& here = names_[current];
  const std::string& other = names_[decision.favourite];
  std::string line;
  switch (decision.outcome) {
    case PolicyOutcome::idle:
      line = fmt::format("{} stays: nothing is to be done", here);
      break;
    case PolicyOutcome::best:
      line = fmt::format("{} stays: it is the best", here);
      break;
    case PolicyOutcome::small_gain:
      line = fmt::format("{} stays: {} would save less than {}", here, other, percent(policy_.hysteresis));
      break;
    case PolicyOutcome::unconfirmed:
      line = fmt::format("{} stays for now: {} is better", here, other);
      break;
    case PolicyOutcome::over_budget:
      line = fmt::format("{} stays: {} is better, but the {} switches of this hour are made", here, other,
                         policy_.max_switches_per_hour);
      break;
    case PolicyOutcome::switching:
      line = fmt::format("{} gives way to {}", here, other);
      break;
  }
  const bool is_news = last_line_ != line || decision.outcome == PolicyOutcome::switching;
  last_line_ = line;
  const std::string numbers =
      load.is_idle() ? std::string()
                     : fmt::format(
                           " (by {} it saves {}; {:.1f} requests run, {:.1f} wait, {} of the tokens are "
                           "of prompts, {:.0f} tokens of context)",
                           name_of(policy_.objective), percent(decision.saving), load.running, load.waiting,
                           percent(load.prefill_share), load.context);
  log::write(is_news ? log::Level::info : log::Level::debug,
             fmt::format("strategy policy: {}{}", line, numbers));
}

void StrategyController::make_switch(size_t strategy, double now) {
  const auto told = std::make_shared<std::promise<bool>>();
  const bool is_begun = switch_.start(
      names_[strategy], [told](const StrategyChange& change) { told->set_value(!change.result.error); });
  if (!is_begun) log::warn("strategy policy: another change of the strategy is under way");
  const bool is_made = is_begun && told->get_future().get();
  if (is_begun && !is_made) refused_at_[strategy] = now;
  // What was observed across a switch tells of neither strategy.
  window_.add(engine_.stats());
  window_.take();
  if (is_made) return;
  const std::lock_guard lock(mutex_);
  ++report_.failed_switches;
}

}  // namespace chorale::engine
