// Changes the strategy of a model that serves: the new ranks are made while the old ones work, then
// everything that lives moves between two steps, and the old ranks are taken apart.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "engine/engine.h"
#include "engine/loaded_model.h"

namespace chorale::engine {

struct StrategyChange {
  std::string strategy;        // that is in force: the one asked for, or, with result.error, the old one
  double prepare_seconds = 0;  // in which the old ranks went on working
  SwitchResult result;
};
using StrategyCallback = std::function<void(const StrategyChange& change)>;

// Thread-safe.
class StrategySwitch {
 public:
  // Both must outlive this.
  StrategySwitch(LoadedModel& model, Engine& engine);
  // Waits for a change that is under way.
  ~StrategySwitch();
  StrategySwitch(const StrategySwitch&) = delete;
  StrategySwitch& operator=(const StrategySwitch&) = delete;

  // Begins a change to the strategy, which is written as for --strategy; calls back once, on a thread of its
  // own. False: another one is under way, and nothing was begun. Throws Error for a text that is no strategy.
  bool start(std::string_view strategy, StrategyCallback callback);

  // That is in force: "tp=2,dp=2,ep=4,moe_tp=1,moe_dp=1".
  std::string current() const;

 private:
  StrategyChange change(const parallel::Strategy& strategy);
  void between_steps(const std::function<void()>& work);

  LoadedModel& model_;
  Engine& engine_;
  mutable std::mutex mutex_;
  std::string current_;
  bool is_busy_ = false;
  std::thread thread_;  // of the last change
};

}  // namespace chorale::engine
