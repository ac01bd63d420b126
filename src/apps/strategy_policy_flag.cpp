#include "apps/strategy_policy_flag.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "apps/settings_file.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/mpi/mpi_world.h"
#include "engine/loaded_model.h"
#include "engine/parallel_plan.h"
#include "kernels/backend.h"
#include "model/weights.h"
#include "parallel/strategy.h"

namespace chorale::apps {
namespace {

using parallel::Strategy;

constexpr std::string_view kFlag = "--strategy-policy";
constexpr std::string_view kAuto = "auto";

// One setting of a file; throws Error that names it.
class PolicySetting {
 public:
  PolicySetting(const std::string& file, const Setting& setting) : file_(file), setting_(setting) {}

  [[noreturn]] void fail(std::string_view expected) const {
    throw_error("{} {}, line {}: {}: expected {}, found \"{}\"", kFlag, file_, setting_.line, setting_.key,
                expected, fmt::format("{}", fmt::join(setting_.values, ", ")));
  }
  const std::string& text(std::string_view expected) const {
    if (setting_.is_list || setting_.values.size() != 1) fail(expected);
    return setting_.values.front();
  }
  double number(double least, double most) const {
    const std::string expected = fmt::format("a number from {} to {}", least, most);
    const std::string& written = text(expected);
    double value = 0;
    const auto [end, error] = std::from_chars(written.data(), written.data() + written.size(), value);
    const bool is_number = error == std::errc() && end == written.data() + written.size();
    if (!is_number || !(value >= least && value <= most)) fail(expected);
    return value;
  }
  engine::Objective objective() const {
    constexpr std::string_view kExpected = "throughput, ttft or itl";
    const std::string& written = text(kExpected);
    for (const auto objective :
         {engine::Objective::throughput, engine::Objective::ttft, engine::Objective::itl}) {
      if (written == engine::name_of(objective)) return objective;
    }
    fail(kExpected);
  }
  std::vector<Strategy> strategies() const {
    std::vector<Strategy> strategies;
    for (const std::string& value : setting_.values) {
      try {
        strategies.push_back(parallel::parse_strategy(value));
      } catch (const Error& error) {
        throw_error("{} {}, line {}: {}: \"{}\": {}", kFlag, file_, setting_.line, setting_.key, value,
                    error.what());
      }
      const auto last = std::prev(strategies.end());
      if (std::find(strategies.begin(), last, *last) != last) fail("each strategy once");
    }
    if (strategies.size() < 2) fail("two strategies or more, as in [\"tp=4\", \"dp=4,ep=4\"]");
    return strategies;
  }

 private:
  const std::string& file_;
  const Setting& setting_;
};

// Processes stay as many as were started.
bool ranks_are_processes(const engine::LoadOptions& load) {
  const std::string& communicator = load.parallel.communicator;
  return communicator == "mpi" || (communicator != "local" && comm::MpiWorld::launch());
}

void require_ranks_that_change(const StrategyFlag& flag, const engine::LoadOptions& load,
                               const io::ModelConfig& config) {
  if (ranks_are_processes(load) && flag.machine.empty() && !flag.profile) {
    throw_error("{}: over MPI every process plans for itself, so that --machine is needed", kFlag);
  }
  if (engine::choose_formats(config, load).device == DeviceKind::cuda)
    throw_error("--device {}: what steps take is predicted ({}) on the CPU alone", load.device, kFlag);
}

// As the server makes ranks for another strategy.
engine::StrategyModel model_of(engine::AdviceRequest request, const Strategy& strategy) {
  request.load.parallel.enable_eplb &= strategy.ep_size > 1;
  request.load.parallel.init_expert_location = "trivial";
  return engine::model_strategy(request, strategy);
}

// Numbers of ranks that a policy without strategies has.
std::vector<int> worlds_of(const engine::AdviceRequest& request, const Strategy& first) {
  if (ranks_are_processes(request.load)) return {first.world()};
  std::vector<int> worlds;
  for (int world = 1; world < request.ranks; world *= 2) worlds.push_back(world);
  worlds.push_back(request.ranks);
  return worlds;
}

void add_all_strategies(const engine::AdviceRequest& request, const Strategy& first, PlannedPolicy& planned) {
  std::vector<Strategy> candidates = {first};
  for (const int world : worlds_of(request, first)) {
    for (const Strategy& strategy : parallel::all_strategies(world, model::sharded_sizes(request.config))) {
      if (!(strategy == first)) candidates.push_back(strategy);
    }
  }
  for (const Strategy& strategy : candidates) {
    try {
      planned.models.push_back(model_of(request, strategy));
      planned.policy.strategies.push_back(strategy);
    } catch (const Error& error) {
      log::debug("{}: {} is left out: {}", kFlag, parallel::to_string(strategy), error.what());
    }
  }
}

}  // namespace

void add_strategy_policy_flag(CLI::App& app, std::string& text) {
  app.add_option(std::string(kFlag), text,
                 "Change the strategy by the load while requests run; the same answers. A YAML or JSON file "
                 "with objective, strategies, interval, hysteresis, max_switches_per_hour; or auto (none)")
      ->option_text("FILE|auto")
      ->group("Parallel strategy");
}

engine::StrategyPolicy read_strategy_policy(const std::string& text) {
  engine::StrategyPolicy policy;
  if (text == kAuto) return policy;
  std::vector<Setting> settings;
  try {
    settings = read_settings_file(text);
  } catch (const Error& error) {
    throw_error("{}: {}", kFlag, error.what());
  }
  for (const Setting& setting : settings) {
    const PolicySetting value(text, setting);
    if (setting.key == "objective") {
      policy.objective = value.objective();
    } else if (setting.key == "strategies") {
      policy.strategies = value.strategies();
    } else if (setting.key == "interval") {
      policy.interval = value.number(0.1, 86400);
    } else if (setting.key == "hysteresis") {
      policy.hysteresis = value.number(0, 0.99);
    } else if (setting.key == "max-switches-per-hour") {
      policy.max_switches_per_hour = static_cast<int>(value.number(0, 3600));
    } else {
      throw_error(
          "{} {}, line {}: unknown key \"{}\"; those that work are objective, strategies, interval, "
          "hysteresis, max_switches_per_hour",
          kFlag, text, setting.line, setting.key);
    }
  }
  return policy;
}

std::optional<PlannedPolicy> plan_strategy_policy(const std::string& text, StrategyFlag& flag,
                                                  const engine::LoadOptions& load,
                                                  const io::ModelConfig& config) {
  if (text.empty()) return std::nullopt;
  PlannedPolicy planned{.policy = read_strategy_policy(text), .models = {}};
  require_ranks_that_change(flag, load, config);
  const Strategy first = engine::choose_strategy(config, load.parallel);
  std::vector<Strategy>& strategies = planned.policy.strategies;
  if (!strategies.empty() && std::find(strategies.begin(), strategies.end(), first) == strategies.end()) {
    throw_error("{} {}: the server begins with {}, which is none of its strategies; --strategy names another",
                kFlag, text, parallel::to_string(first));
  }
  const engine::AdviceRequest request = advice_request(flag, load, config);
  for (const Strategy& strategy : strategies) {
    if (ranks_are_processes(load) && strategy.world() != first.world()) {
      throw_error("{} {}: over MPI expected strategies of {} ranks, as the first has, found {} of {}", kFlag,
                  text, first.world(), parallel::to_string(strategy), strategy.world());
    }
    try {
      planned.models.push_back(model_of(request, strategy));
    } catch (const Error& error) {
      throw_error("{} {}: {} cannot serve: {}", kFlag, text, parallel::to_string(strategy), error.what());
    }
  }
  if (strategies.empty()) add_all_strategies(request, first, planned);
  if (strategies.size() < 2) throw_error("{} {}: no other strategy can serve this model", kFlag, text);
  log::info("{} {}: {} strategies, by {}", kFlag, text, strategies.size(),
            engine::name_of(planned.policy.objective));
  return planned;
}

}  // namespace chorale::apps
