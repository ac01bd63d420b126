// --strategy-policy of a server: by which rules it changes its strategy while requests run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/recommend.h"
#include "engine/load_options.h"
#include "engine/strategy_policy.h"
#include "io/model_config.h"

namespace CLI {
class App;
}

namespace chorale::apps {

void add_strategy_policy_flag(CLI::App& app, std::string& text);

// "auto", or a file of settings (settings_file.h) with objective, strategies, interval, hysteresis and
// max_switches_per_hour, all of which may be left out. Without strategies, policy.strategies is empty. Throws
// Error that names the flag, or file, line and key.
engine::StrategyPolicy read_strategy_policy(const std::string& text);

struct PlannedPolicy {
  engine::StrategyPolicy policy;
  std::vector<engine::StrategyModel> models;  // of policy.strategies
};

// load: with the strategy that the server begins with. A policy without strategies gets that one and all of
// 1, 2, 4, ... ranks, up to those of --strategy-ranks, that can serve; over MPI all of as many ranks as the
// first has. Nothing for an empty text. Throws Error where there is nothing to choose from, on a device of
// one rank or with one strategy alone; for a strategy of the file that cannot serve, or over MPI has another
// number of ranks; and for processes without a file of the machine, each of which would measure it.
std::optional<PlannedPolicy> plan_strategy_policy(const std::string& text, StrategyFlag& flag,
                                                  const engine::LoadOptions& load,
                                                  const io::ModelConfig& config);

}  // namespace chorale::apps
