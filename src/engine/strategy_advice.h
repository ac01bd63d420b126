// Which strategy serves a workload best: every one that works, with what the cost model predicts and what the
// memory plan says, ranked. Pure arithmetic but for a placement's file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/load_options.h"
#include "parallel/cost_model.h"
#include "parallel/machine_profile.h"
#include "parallel/prediction.h"

namespace chorale::engine {

// From what the loader knows.
parallel::ModelShape model_shape(const io::ModelConfig& config, const model::WeightFormats& formats,
                                 DType kv_dtype);

enum class Objective { throughput, ttft, itl, memory };
std::string_view name_of(Objective objective);
// Throws Error that names `flag`.
Objective parse_objective(std::string_view text, std::string_view flag);

// Seconds that most requests' first token (median) and most gaps between tokens (median) may take; 0: any.
struct ServiceLevel {
  double first_token = 0;
  double between = 0;
};
// "ttft=2s,itl=50ms". Throws Error that names --slo.
ServiceLevel parse_service_level(std::string_view text);

struct AdviceRequest {
  LoadOptions load;  // its strategy is not used
  io::ModelConfig config;
  int ranks = 1;
  parallel::MachineProfile machine;
  parallel::UniformWorkload workload;
  Objective objective = Objective::throughput;
  ServiceLevel service_level;
};

struct RankedStrategy {
  parallel::Strategy strategy;
  std::string refused;          // why it cannot serve; empty: it can
  uint64_t weight_bytes = 0;    // that the busiest rank computes with
  uint64_t kv_cache_bytes = 0;  // of a rank
  int64_t kv_tokens = 0;        // of each data-parallel group
  uint64_t process_bytes = 0;   // weights, caches and activations of all ranks that share memory
  bool meets_service_level = true;
  std::optional<parallel::Prediction> predicted;
};

// Another workload or objective, and the strategy that comes first then.
struct Alternative {
  std::string change;  // "with 4 times as many requests"
  parallel::Strategy first;
};

struct Advice {
  std::vector<RankedStrategy>
      ranked;          // the best first; those that cannot serve last, as all_strategies() lists
  std::string reason;  // why the first is first; or why there is none
  std::vector<Alternative> alternatives;  // changes that would put another one first
};

// A strategy whose steps are to be predicted again and again, with what bounds them.
struct StrategyModel {
  parallel::CostModel cost;
  int64_t prompt_tokens_per_step = 0;  // of each group, at most, as are the two below
  int64_t running_requests = 0;
  int64_t kv_tokens = 0;
};

// The request's workload, objective and number of ranks do not matter. Throws Error when it cannot serve.
StrategyModel model_strategy(const AdviceRequest& request, const parallel::Strategy& strategy);

// Memory is the machine's: a node's for ranks that share one, a device's each else. Throws Error for what
// would make every strategy fail, such as a number of ranks that no strategy of the model has.
Advice advise(const AdviceRequest& request);

// The strategy with its prediction, as advise() computes it. Throws Error when it cannot serve.
RankedStrategy predict_strategy(const AdviceRequest& request, const parallel::Strategy& strategy);

}  // namespace chorale::engine
