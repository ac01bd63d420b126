// Changes the strategy by the load, while requests run: looks at what the engine does, asks the cost model
// what each strategy would make of it (strategy_policy.h), and switches.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/strategy_policy.h"
#include "engine/strategy_switch.h"

namespace chorale::engine {

// What has come of a policy since the start.
struct PolicyReport {
  std::array<uint64_t, kNumPolicyOutcomes> decisions{};  // by PolicyOutcome
  uint64_t failed_switches = 0;                          // that were decided and then refused
  double saving = 0;  // by the last decision: share of the time that the best other strategy saves; 0: none
  int switches_left = 0;  // of the hour's
};

// Thread-safe.
class StrategyController {
 public:
  // models: of policy.strategies, one each. num_experts: of each layer, where the load of experts is to be
  // looked at; 0: it is taken to be even, as where experts move to their load. Both references must outlive
  // this. Begins to look.
  StrategyController(Engine& engine, StrategySwitch& strategy_switch, StrategyPolicy policy,
                     std::vector<StrategyModel> models, size_t num_experts);
  // Waits for a switch that it has begun.
  ~StrategyController();
  StrategyController(const StrategyController&) = delete;
  StrategyController& operator=(const StrategyController&) = delete;

  PolicyReport report() const;

 private:
  // Counts of tokens by expert, which the engine tells later.
  struct ExpertCounts;

  void loop();
  bool wait(double seconds);
  void look(double now);
  std::optional<size_t> current() const;
  std::vector<double> take_expert_share();
  std::vector<double> predict(const LoadSample& load, size_t current, double now);
  void tell(const PolicyDecision& decision, size_t current, const LoadSample& load);
  void make_switch(size_t strategy, double now);

  Engine& engine_;
  StrategySwitch& switch_;
  const StrategyPolicy policy_;
  const size_t num_experts_;

  // The thread's alone.
  std::vector<StrategyModel> models_;
  std::vector<std::string> names_;  // of policy_.strategies
  std::vector<double> refused_at_;  // when a switch to each was refused last
  LoadWindow window_;
  PolicyState state_;
  std::vector<int64_t> last_counts_;
  std::optional<std::string> last_line_;  // what was logged last, without its numbers
  const std::shared_ptr<ExpertCounts> expert_counts_;

  mutable std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  PolicyReport report_;

  std::thread thread_;  // last: it uses everything above
};

}  // namespace chorale::engine
