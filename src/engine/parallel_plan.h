// From flags and a configuration to what every rank does: strategy, placement of experts, and each rank's
// part. Pure but for the placement's file, and printable.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/device.h"
#include "io/model_config.h"
#include "model/rank_plan.h"
#include "model/weight_shard.h"
#include "model/weights.h"
#include "parallel/expert_placement.h"
#include "parallel/strategy.h"
#include "parallel/topology.h"

namespace chorale::engine {

// A failure that a test asks for: at the start of that step the rank's device breaks so. On the CPU the rank
// throws, or does nothing any more.
struct InjectedFault {
  int rank = 0;
  int64_t step = 0;
  DeviceFault kind = DeviceFault::error;
};

// As the flags give it; see `chorale serve --help`.
struct ParallelOptions {
  parallel::StrategyFlags strategy;
  int64_t max_tp_size = parallel::kMaxChunks;  // ranks that may split a matrix, at most
  int num_redundant_experts = 0;
  std::string dispatch_algorithm = "static";
  std::string init_expert_location = "trivial";  // or a JSON file
  std::string eplb_algorithm = "auto";
  bool enable_eplb = false;           // experts move between ranks while requests run
  std::string communicator = "auto";  // "local", "mpi"; auto: mpi when started by an MPI launcher
  std::vector<int> gpus;              // the devices of ranks, by number; empty: those that there are
  int ranks_per_gpu = 0;              // 0: one
  std::string collectives = "auto";   // "peer", "nccl", "host": how GPUs exchange data
  double collective_timeout = 10;     // seconds that a rank may keep the others waiting; 0: for ever
  std::optional<InjectedFault> fault;
};

// One rank's part.
struct RankPart {
  parallel::Topology topology;
  model::WeightShard shard;
  model::RankExtent extent;
  std::vector<model::ExpertSlots> expert_slots;  // empty when no token travels
};

struct ParallelPlan {
  parallel::Strategy strategy;
  parallel::ExpertPlacement placement;
  std::vector<RankPart> ranks;      // [world]
  model::DispatchOptions dispatch;  // of all ranks
  // Each rank stores its own part, also where it shares its process with others; else those of a process
  // share the whole model.
  bool ranks_store_apart = false;

  bool tokens_travel() const { return ranks.front().extent.dispatches; }
  // Whether ranks own different experts.
  bool experts_can_move() const { return tokens_travel() && strategy.ep_size > 1 && !ranks_store_apart; }
};

// Throws Error that names the flag or the file, what was found and what works. host_of [world]: a number per
// rank, the same for ranks of one host.
ParallelPlan plan_parallel(const io::ModelConfig& config, const ParallelOptions& options,
                           const model::StepLimits& limits, const std::vector<int>& host_of);

// The strategy alone, before anything is planned for it.
parallel::Strategy choose_strategy(const io::ModelConfig& config, const ParallelOptions& options);

// The options for another strategy; a placement that was made for the first one need not fit.
ParallelOptions options_for(const ParallelOptions& given, const parallel::Strategy& strategy);

// What the process of the ranks `here` stores: ranks that share one have the whole model in common, a process
// of its own has its part.
model::WeightShard stored_shard(const io::ModelConfig& config, const ParallelPlan& plan,
                                std::span<const int> here);

// What a rank stores that stores apart: its part, its experts in the order of its slots, and the whole
// embedding. Throws Error where a rank has an expert twice.
model::WeightShard shard_of_rank(const io::ModelConfig& config, const ParallelPlan& plan, int rank);

// Bytes of the weights that the ranks `here` store together.
uint64_t stored_bytes(const io::ModelConfig& config, const model::WeightFormats& formats,
                      const ParallelPlan& plan, std::span<const int> here);

// Bytes of the weights that a rank computes with. Ranks of one process share them.
uint64_t weight_bytes(const io::ModelConfig& config, const model::WeightFormats& formats,
                      const RankPart& part);

}  // namespace chorale::engine
