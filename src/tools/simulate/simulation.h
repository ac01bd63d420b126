// Replicas of the engine on a clock that only its steps advance: the engine's own scheduler, block manager
// and prefix cache, and a model runner that takes the time that a cost model tells.
//
// A pure function of its arguments: no threads, no clock of the machine, no files.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "tools/bench_serve/metrics.h"
#include "tools/simulate/requests.h"
#include "tools/simulate/simulated_runner.h"
#include "tools/simulate/windows.h"

namespace chorale::simulate {

// Which replica gets a request: each in turn, or the one with the fewest that have not ended, of equal ones
// the first.
enum class Router { least_loaded, round_robin };
std::string_view name_of(Router router);     // as --router has it
Router parse_router(std::string_view name);  // throws Error that names --router

struct SimulationOptions {
  engine::EngineOptions engine;  // of each replica; eos_token_ids is not used
  RunnerShape shape;             // likewise
  int num_replicas = 1;
  Router router = Router::least_loaded;
  // Requests that clients have under way, at most; later ones are sent when others end, and their times count
  // from then on.
  std::optional<int64_t> max_concurrency = {};
  uint64_t seed = 0;  // of the tokens that are sampled
  // Called at each start of a step of the first replica, for tests.
  std::function<void(Time, std::span<const engine::StepPlan* const>)> on_step = {};
};

struct SimulationResult {
  bench_serve::Metrics metrics;                  // as bench serve has them, without samples
  std::optional<bench_serve::Statistics> queue;  // until the first step that computes a request
  std::vector<bench_serve::CountedError> errors;
  // Of all replicas together.
  int64_t kv_tokens_total = 0;
  double mean_kv_tokens = 0;  // held by requests that run, over time
  int64_t peak_kv_tokens = 0;
  double mean_running = 0;  // requests
  double mean_waiting = 0;
  int64_t peak_waiting = 0;
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;  // of these, found in the prefix cache
  uint64_t preemptions = 0;
  uint64_t steps = 0;
  Windows windows;
};

// Throws Error for engine options that are out of range.
SimulationResult simulate(const SimulationOptions& options, const StepSeconds& step_seconds,
                          RequestSource& source);

}  // namespace chorale::simulate
