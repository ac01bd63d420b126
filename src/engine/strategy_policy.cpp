#include "engine/strategy_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace chorale::engine {
namespace {

constexpr double kHour = 3600;

// What happened from one snapshot to the next.
double since(uint64_t before, uint64_t after) {
  return static_cast<double>(after) - static_cast<double>(before);
}

double computed_prompt_tokens(const EngineStats& before, const EngineStats& after) {
  return since(before.prompt_tokens, after.prompt_tokens) - since(before.cached_tokens, after.cached_tokens);
}

// How a load falls on a strategy's groups. A step that has prompts is followed by some that only decode.
class SteadyLoad {
 public:
  SteadyLoad(const StrategyModel& model, const LoadSample& load)
      : groups_(model.cost.strategy().dp_size), context_(std::max(load.context, 1.0)) {
    const auto room = static_cast<double>(model.kv_tokens) / context_;
    const double most =
        std::max(std::floor(std::min(room, static_cast<double>(model.running_requests))), 1.0);
    decoding_ = std::min(load.running + load.waiting, most * groups_);
    const auto budget = static_cast<double>(model.prompt_tokens_per_step);
    const bool is_full = load.waiting >= 1 || load.prompt_length <= 0;
    chunk_ = std::max(is_full ? budget : std::min(budget, load.prompt_length), 1.0);
    prompt_groups_ = std::clamp(static_cast<int>(load.waiting), 1, groups_);
  }

  double decoding() const { return decoding_; }
  // Of a step that has prompts.
  double prompt_tokens() const { return chunk_ * prompt_groups_; }
  int prompt_groups() const { return prompt_groups_; }

  double decode_seconds(const parallel::CostModel& cost) const {
    return cost.step(step_of(decoding_, false)).total();
  }
  double prompt_seconds(const parallel::CostModel& cost, double decoding) const {
    return cost.step(step_of(decoding, true)).total();
  }

 private:
  parallel::StepLoad step_of(double decoding, bool has_prompts) const {
    const int64_t sequences = std::llround(decoding);
    parallel::StepLoad step;
    for (int g = 0; g < groups_; ++g) {
      const int64_t here = sequences / groups_ + (g < sequences % groups_ ? 1 : 0);
      const auto attended = static_cast<int64_t>(static_cast<double>(here) * context_);
      parallel::GroupLoad group{here, here, attended, here};
      // Prompts come to the groups that have the fewest sequences, the last ones.
      if (has_prompts && g >= groups_ - prompt_groups_) add_prompt(group);
      step.groups.push_back(group);
    }
    return step;
  }

  void add_prompt(parallel::GroupLoad& group) const {
    const std::int64_t tokens = std::llround(chunk_);
    group.tokens += tokens;
    ++group.sequences;
    group.attended_tokens += tokens * (tokens + 1) / 2;
    ++group.logits_rows;
  }

  const int groups_;
  const double context_;
  double decoding_ = 0;
  double chunk_ = 1;
  int prompt_groups_ = 1;
};

// As many prompts come as the load's tokens tell: in every step, or between steps that decode alone.
double seconds_of_a_token(const parallel::CostModel& cost, const SteadyLoad& load, double prefill_share) {
  if (prefill_share <= 0) return load.decode_seconds(cost) / std::max(load.decoding(), 1.0);
  const double tokens = load.prompt_tokens();
  const double answers = tokens * (1 - prefill_share) / prefill_share;  // that go with a step's prompts
  if (answers <= load.decoding()) return load.prompt_seconds(cost, answers) / (tokens + answers);
  const double decode_steps = answers / std::max(load.decoding(), 1.0) - 1;
  return (load.prompt_seconds(cost, load.decoding()) + decode_steps * load.decode_seconds(cost)) /
         (tokens + answers);
}

// The median: what most of the steps take.
double seconds_between(const parallel::CostModel& cost, const SteadyLoad& load, double prefill_share) {
  const double tokens = load.prompt_tokens();
  const double answers = prefill_share > 0 ? tokens * (1 - prefill_share) / prefill_share
                                           : std::numeric_limits<double>::infinity();
  return answers < 2 * load.decoding() ? load.prompt_seconds(cost, load.decoding())
                                       : load.decode_seconds(cost);
}

// Of the last of those that wait now, and one more.
double seconds_to_first(const parallel::CostModel& cost, const SteadyLoad& load, const LoadSample& sample) {
  const double length = std::max(sample.prompt_length, 1.0);
  const double tokens = length * (std::floor(sample.waiting) + 1);
  return std::ceil(tokens / load.prompt_tokens()) * load.prompt_seconds(cost, load.decoding());
}

}  // namespace

void LoadWindow::add(const EngineStats& stats) {
  if (!std::exchange(has_first_, true)) first_ = stats;
  last_ = stats;
  ++snapshots_;
  running_ += static_cast<double>(stats.running);
  waiting_ += static_cast<double>(stats.waiting);
  kv_tokens_ += static_cast<double>(stats.kv_tokens_used);
}

LoadSample LoadWindow::take() {
  LoadSample sample;
  if (snapshots_ > 0) {
    const auto snapshots = static_cast<double>(snapshots_);
    sample.running = running_ / snapshots;
    sample.waiting = waiting_ / snapshots;
    sample.context = running_ > 0 ? kv_tokens_ / running_ : 0;
    const double prompts = std::max(computed_prompt_tokens(first_, last_), 0.0);
    const double requests = since(first_.queue_seconds.count(), last_.queue_seconds.count());
    sample.computed_tokens = prompts + since(first_.generated_tokens, last_.generated_tokens);
    sample.prefill_share = sample.computed_tokens > 0 ? prompts / sample.computed_tokens : 0;
    sample.prompt_length = requests > 0 ? prompts / requests : 0;
  }
  snapshots_ = 0;
  running_ = waiting_ = kv_tokens_ = 0;
  first_ = last_;
  return sample;
}

std::vector<double> expert_share(std::span<const int64_t> before, std::span<const int64_t> after,
                                 size_t experts) {
  if (experts == 0 || before.size() != after.size() || after.empty() || after.size() % experts != 0)
    return {};
  std::vector<double> share(experts, 0.0);
  double sum = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const auto routed = static_cast<double>(std::max<int64_t>(after[i] - before[i], 0));
    share[i % experts] += routed;
    sum += routed;
  }
  return sum > 0 ? share : std::vector<double>{};
}

double predicted_seconds(StrategyModel& model, const LoadSample& load, Objective objective) {
  CHORALE_CHECK(!load.is_idle(), "an idle load");
  if (!load.expert_share.empty()) model.cost.set_expert_share(load.expert_share);
  const SteadyLoad steady(model, load);
  switch (objective) {
    case Objective::ttft:
      return seconds_to_first(model.cost, steady, load);
    case Objective::itl:
      return seconds_between(model.cost, steady, load.prefill_share);
    case Objective::throughput:
    case Objective::memory:
      break;
  }
  return seconds_of_a_token(model.cost, steady, load.prefill_share);
}

std::string_view name_of(PolicyOutcome outcome) {
  constexpr std::array<std::string_view, kNumPolicyOutcomes> kNames = {
      "idle", "best", "small_gain", "unconfirmed", "over_budget", "switching"};
  return kNames[static_cast<size_t>(outcome)];
}

PolicyDecision decide(const StrategyPolicy& policy, std::span<const double> seconds, size_t current,
                      double now, PolicyState state) {
  std::erase_if(state.switches, [now](double time) { return time <= now - kHour; });
  PolicyDecision decision{.favourite = current, .next = std::move(state)};
  PolicyState& next = decision.next;
  const int looks = std::exchange(next.looks, 0);
  if (seconds.empty()) return decision;
  const auto saving = [&](size_t strategy, size_t against) {
    return std::isinf(seconds[against]) ? 1.0 : 1 - seconds[strategy] / seconds[against];
  };
  const auto best = static_cast<size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
  decision.outcome = PolicyOutcome::best;
  if (!(seconds[best] < seconds[current])) return decision;  // of equals the one in force stays
  // Of several that are about as good, the one that has been confirmed before.
  const bool goes_on = looks > 0 && saving(next.favourite, current) >= policy.hysteresis &&
                       (best == next.favourite || saving(best, next.favourite) < policy.hysteresis);
  decision.favourite = goes_on ? next.favourite : best;
  decision.saving = saving(decision.favourite, current);
  decision.outcome = PolicyOutcome::small_gain;
  if (decision.saving < policy.hysteresis) return decision;
  next.looks = goes_on ? std::min(looks + 1, kLooksBeforeSwitch) : 1;
  next.favourite = decision.favourite;
  if (next.looks < kLooksBeforeSwitch) {
    decision.outcome = PolicyOutcome::unconfirmed;
  } else if (std::ssize(next.switches) >= policy.max_switches_per_hour) {
    decision.outcome = PolicyOutcome::over_budget;
  } else {
    decision.outcome = PolicyOutcome::switching;
    next.looks = 0;
    next.switches.push_back(now);
  }
  return decision;
}

}  // namespace chorale::engine
