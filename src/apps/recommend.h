// The planner's advice for commands: which strategy, of how many ranks, for which load, on which machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/load_options.h"
#include "engine/strategy_advice.h"
#include "parallel/machine_profile.h"

namespace CLI {
class App;
}

namespace chorale::apps {

struct RecommendFlags {
  bool recommend = false;
  int ranks = 0;  // 0: as many as the machine has cores, or devices
  std::string workload = "random:64x128+64";
  std::string trace;
  std::string objective = "throughput";
  std::string service_level;
  std::string machine;  // a file; empty: this machine is measured quickly
};

void add_recommend_flags(CLI::App& app, RecommendFlags& flags);

// Throws Error that names the flag.
engine::AdviceRequest advice_request(const RecommendFlags& flags, const engine::LoadOptions& load,
                                     const io::ModelConfig& config);

// Prints the advice; the exit status, 1 where no strategy can serve.
int run_recommend(const RecommendFlags& flags, const engine::LoadOptions& load, bool json);

// --strategy of a server: "tp=4,dp=2,ep=8", or "auto" with an objective after a colon, which takes the first
// of the advice and logs why. Nothing for an empty text. Throws Error that names --strategy, also where other
// flags give sizes.
struct StrategyFlag {
  std::string text;
  std::string machine;  // as RecommendFlags has it
  int ranks = 0;
  std::optional<parallel::MachineProfile> profile = {};  // once it was read or measured
};
void add_strategy_flag(CLI::App& app, StrategyFlag& flag);
void apply_strategy_flag(StrategyFlag& flag, engine::LoadOptions& load, const io::ModelConfig& config);

// For its machine and its ranks, by throughput, for the default workload. The machine is measured once.
// Throws Error that names the flag.
engine::AdviceRequest advice_request(StrategyFlag& flag, const engine::LoadOptions& load,
                                     const io::ModelConfig& config);

}  // namespace chorale::apps
