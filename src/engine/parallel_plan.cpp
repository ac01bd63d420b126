#include "engine/parallel_plan.h"

#include <algorithm>

#include "base/error.h"
#include "io/file_access.h"
#include "model/weights.h"

namespace chorale::engine {
namespace {

constexpr uint64_t kMaxPlacementBytes = uint64_t{256} << 20;

// Hosts of the expert-parallel ranks, from the ranks of the first replica and the first part of each expert.
std::vector<int> hosts_of_owners(const parallel::Strategy& strategy, const std::vector<int>& host_of) {
  std::vector<int> hosts;
  for (int e = 0; e < strategy.ep_size; ++e) {
    hosts.push_back(host_of[static_cast<size_t>(e * strategy.moe_tp_size)]);
  }
  return hosts;
}

// Hosts that have equally many neighbouring owners, as balanced placement wants them; else one.
int num_nodes(const std::vector<int>& hosts) {
  std::vector<int> changes{0};
  for (size_t i = 1; i < hosts.size(); ++i) {
    if (hosts[i] != hosts[i - 1]) changes.push_back(static_cast<int>(i));
  }
  const auto nodes = static_cast<int>(changes.size());
  const int per_node = static_cast<int>(hosts.size()) / nodes;
  for (int i = 0; i < nodes; ++i) {
    if (changes[static_cast<size_t>(i)] != i * per_node) return 1;
  }
  return nodes * per_node == static_cast<int>(hosts.size()) ? nodes : 1;
}

// Room for turns among the replicas that an expert may get when experts move. More than these take turns
// nearly as evenly.
int64_t most_variants(const parallel::ExpertPlacement& placement) {
  constexpr int64_t kMost = 16;
  return std::min<int64_t>(placement.num_slots() - placement.num_experts() + 1, kMost);
}

parallel::ExpertPlacement place_experts(const io::ModelConfig& config, const ParallelOptions& options,
                                        const parallel::Strategy& strategy, const std::vector<int>& hosts) {
  const parallel::PlacementShape shape{
      .num_layers = static_cast<int>(config.num_hidden_layers),
      .num_experts = static_cast<int>(std::max<int64_t>(config.num_experts, 1)),
      .ep_size = strategy.ep_size,
      .num_redundant = options.num_redundant_experts};
  if (options.init_expert_location == "trivial") return parallel::ExpertPlacement::trivial(shape);
  const std::string source = "--init-expert-location " + options.init_expert_location;
  std::string text;
  try {
    text = io::read_text_file(options.init_expert_location, kMaxPlacementBytes);
  } catch (const Error& error) {
    throw_error("--init-expert-location: {}", error.what());
  }
  return parallel::ExpertPlacement::from_json(
      text, source, shape,
      {.algorithm = parallel::parse_eplb_algorithm(options.eplb_algorithm),
       .num_groups = 1,
       .num_nodes = num_nodes(hosts)});
}

}  // namespace

parallel::Strategy choose_strategy(const io::ModelConfig& config, const ParallelOptions& options) {
  const parallel::Strategy strategy = parallel::resolve_strategy(options.strategy, config.num_experts);
  if (options.fault && (options.fault->rank < 0 || options.fault->rank >= strategy.world())) {
    throw_error("--inject-fault: expected a rank from 0 to {}, found {}", strategy.world() - 1,
                options.fault->rank);
  }
  parallel::check_strategy(strategy, model::sharded_sizes(config));
  return strategy;
}

ParallelPlan plan_parallel(const io::ModelConfig& config, const ParallelOptions& options,
                           const model::StepLimits& limits, const std::vector<int>& host_of) {
  const parallel::Strategy strategy = choose_strategy(config, options);
  CHORALE_CHECK(static_cast<int>(host_of.size()) == strategy.world());
  const std::vector<int> hosts = hosts_of_owners(strategy, host_of);
  ParallelPlan plan{strategy, place_experts(config, options, strategy, hosts), {}, {}};
  plan.dispatch = {.algorithm = parallel::parse_dispatch_algorithm(options.dispatch_algorithm),
                   .host_of = hosts,
                   .num_variants = options.enable_eplb ? most_variants(plan.placement) : 0};
  for (int rank = 0; rank < strategy.world(); ++rank) {
    const parallel::Topology topology(strategy, rank);
    plan.ranks.push_back({topology, model::shard_of(config, topology, plan.placement),
                          model::rank_extent(config, topology, plan.placement, limits),
                          model::expert_slots(config, topology, plan.placement, plan.dispatch)});
  }
  if (options.enable_eplb && !plan.experts_can_move()) {
    throw_error(
        "--enable-eplb: expected a strategy in which ranks own different experts, such as --ep-size 2, found "
        "{}",
        parallel::to_string(strategy));
  }
  return plan;
}

ParallelOptions options_for(const ParallelOptions& given, const parallel::Strategy& strategy) {
  ParallelOptions options = given;
  options.strategy = {};
  options.strategy.tp_size = strategy.tp_size;
  options.strategy.dp_size = strategy.dp_size;
  options.strategy.ep_size = strategy.ep_size;
  options.strategy.moe_tp_size = strategy.moe_tp_size;
  options.strategy.moe_dp_size = strategy.moe_dp_size;
  options.init_expert_location = "trivial";
  // Experts stay where they are under a strategy in which they have nowhere to go.
  options.enable_eplb &= strategy.ep_size > 1;
  return options;
}

model::WeightShard stored_shard(const io::ModelConfig& config, const ParallelPlan& plan,
                                std::span<const int> here) {
  return here.size() == plan.ranks.size()
             ? model::whole_model(config)
             : model::storage_for(plan.ranks[static_cast<size_t>(here[0])].shard);
}

model::WeightShard shard_of_rank(const io::ModelConfig& config, const ParallelPlan& plan, int rank) {
  model::WeightShard shard = plan.ranks[static_cast<size_t>(rank)].shard;
  shard.vocab_rows = {0, config.vocab_size};
  for (size_t layer = 0; layer < shard.experts.size(); ++layer) {
    std::vector<int32_t> experts = shard.experts[layer];
    std::ranges::sort(experts);
    const auto twice = std::ranges::adjacent_find(experts);
    if (twice == experts.end()) continue;
    throw_error(
        "rank {} on a GPU: expected each expert in one slot of it at most, found expert {} of layer {} in "
        "several; lower --ep-num-redundant-experts or change --init-expert-location",
        rank, *twice, layer);
  }
  return shard;
}

uint64_t stored_bytes(const io::ModelConfig& config, const model::WeightFormats& formats,
                      const ParallelPlan& plan, std::span<const int> here) {
  if (!plan.ranks_store_apart)
    return model::plan_weights(config, formats, stored_shard(config, plan, here)).bytes;
  uint64_t bytes = 0;
  for (const int rank : here)
    bytes += model::plan_weights(config, formats, shard_of_rank(config, plan, rank)).bytes;
  return bytes;
}

uint64_t weight_bytes(const io::ModelConfig& config, const model::WeightFormats& formats,
                      const RankPart& part) {
  return model::plan_weights(config, formats, model::storage_for(part.shard)).bytes;
}

}  // namespace chorale::engine
