// Which strategy serves a load best, asked again and again while requests run: what a controller decides by.
// Pure arithmetic: values in, a decision out; no clock, no threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "engine/strategy_advice.h"
#include "parallel/strategy.h"

namespace chorale::engine {

struct StrategyPolicy {
  Objective objective = Objective::throughput;  // not memory, which no load changes
  std::vector<parallel::Strategy> strategies;   // that may be in force
  double interval = 30;                         // seconds from one look at the load to the next
  double hysteresis = 0.1;                      // share of the time that another strategy must save
  int max_switches_per_hour = 6;                // in any hour; 0: decisions are told, and nothing is changed
};

// Looks in a row, at each of which the same strategy must save enough.
inline constexpr int kLooksBeforeSwitch = 3;

// What the engine had to do from one look to the next.
struct LoadSample {
  double running = 0;                // sequences, on average
  double waiting = 0;                // sequences, on average
  double computed_tokens = 0;        // of prompts and answers, in all; 0: there was nothing to do
  double prefill_share = 0;          // of these tokens, those of prompts: 0 to 1
  double prompt_length = 0;          // computed tokens of a prompt, on average; 0: no prompt began
  double context = 0;                // tokens of KV cache that a running sequence holds, on average
  std::vector<double> expert_share;  // of the experts' work, by expert, over all layers; empty: even

  bool is_idle() const { return computed_tokens <= 0 || running + waiting <= 0; }
};

// Makes samples of snapshots that come at even distances.
class LoadWindow {
 public:
  void add(const EngineStats& stats);
  // Of what was added since the last call. The expert share is left empty.
  LoadSample take();

 private:
  int64_t snapshots_ = 0;
  double running_ = 0, waiting_ = 0, kv_tokens_ = 0;  // sums
  bool has_first_ = false;
  EngineStats first_, last_;
};

// [experts]: what was routed to each between two counts of all layers, [layers * experts]; empty where
// nothing was, or where the counts do not fit.
std::vector<double> expert_share(std::span<const int64_t> before, std::span<const int64_t> after,
                                 size_t experts);

// Seconds, of which fewer are better: for `throughput` those of a token, prompts included; for `itl` those
// between two tokens of a sequence; for `ttft` until a prompt that comes now has its first token. The load
// must not be idle. Sets the load of experts of the model.
double predicted_seconds(StrategyModel& model, const LoadSample& load, Objective objective);

enum class PolicyOutcome {
  idle,         // there is nothing to do, so nothing to decide by
  best,         // no other strategy is better
  small_gain,   // one is, by less than the hysteresis
  unconfirmed,  // one saves enough, but not yet at enough looks
  over_budget,  // one saves enough, but the hour's switches are made
  switching,    // it is to be in force
};
inline constexpr size_t kNumPolicyOutcomes = 6;
std::string_view name_of(PolicyOutcome outcome);

// What a decision goes by beside the load; begins empty.
struct PolicyState {
  size_t favourite = 0;          // that saves enough,
  int looks = 0;                 // at so many looks in a row; 0: none does
  std::vector<double> switches;  // times of those of the last hour, ascending
};

struct PolicyDecision {
  PolicyOutcome outcome = PolicyOutcome::idle;
  size_t favourite = 0;  // what is better than the one in force, else that: a place in `seconds`
  double saving = 0;     // share of the time of the one in force that it saves
  PolicyState next;      // for the next decision
};

// seconds: of each strategy, by predicted_seconds(); infinite: not to be taken; empty: the load is idle.
// current: the place of the one in force. now: seconds of a clock that only goes forward. Whoever gets
// `switching` makes the switch; it counts whatever comes of it.
PolicyDecision decide(const StrategyPolicy& policy, std::span<const double> seconds, size_t current,
                      double now, PolicyState state);

}  // namespace chorale::engine
