#include "model/rank_plan.h"

#include <algorithm>

#include "base/math.h"
#include "parallel/sharding_plan.h"

namespace chorale::model {
namespace {

using parallel::elements_of_chunks;
using parallel::GroupKind;

// The most home tokens that any member of the group may have.
int64_t most_home_tokens(const StepLimits& limits, int tp_size) {
  return ceil_div<int64_t>(limits.max_tokens, tp_size);
}

}  // namespace

bool tokens_travel(const parallel::Topology& topology, const parallel::ExpertPlacement& placement) {
  if (topology.group(GroupKind::expert_group).size() == 1) return false;
  if (topology.moe_tensor_parallel_world_size() > 1) return true;
  for (int r = 0; r < placement.ep_size(); ++r) {
    if (!placement.is_local(r)) return true;
  }
  return false;
}

RankExtent rank_extent(const io::ModelConfig& config, const parallel::Topology& topology,
                       const parallel::ExpertPlacement& placement, const StepLimits& limits) {
  const parallel::ShardedSizes sizes = sharded_sizes(config);
  const WeightShard shard = shard_of(config, topology, placement);
  const int tp_size = topology.tensor_model_parallel_world_size();
  RankExtent extent;
  extent.tp_size = tp_size;
  extent.tp_rank = topology.tensor_model_parallel_rank();
  extent.query_heads = elements_of_chunks(shard.query, sizes.query_heads, sizes).size();
  extent.kv_heads = elements_of_chunks(shard.kv, sizes.kv_heads, sizes).size();
  extent.fewest_chunks = shard.query.size();
  if (sizes.intermediate > 0) {
    extent.dense_intermediate = elements_of_chunks(shard.dense, sizes.intermediate, sizes).size();
    extent.fewest_chunks = std::min(extent.fewest_chunks, shard.dense.size());
  }
  if (sizes.expert_intermediate > 0) {
    extent.expert_intermediate = elements_of_chunks(shard.expert, sizes.expert_intermediate, sizes).size();
    extent.fewest_chunks = std::min(extent.fewest_chunks, shard.expert.size());
  }
  const int64_t vocab_chunks = sizes.chunks(sizes.vocab);
  extent.head_columns =
      elements_of_chunks(parallel::even_range(vocab_chunks, tp_size, 0), sizes.vocab, sizes).size();

  extent.dispatches = sizes.expert_intermediate > 0 && tokens_travel(topology, placement);
  extent.num_experts = extent.dispatches ? placement.slots_per_rank() : config.num_experts;
  extent.group_size = topology.group(GroupKind::expert_group).size();
  extent.copies = topology.moe_tensor_parallel_world_size();
  extent.max_home_tokens = most_home_tokens(limits, tp_size);
  extent.max_received_rows = extent.max_home_tokens;
  if (extent.dispatches) {
    const int64_t owners = extent.group_size / extent.copies;
    extent.max_sent_rows =
        extent.max_home_tokens * std::min<int64_t>(owners, config.num_experts_per_tok) * extent.copies;
    extent.max_received_rows = extent.max_home_tokens * extent.group_size;
  }
  return extent;
}

ExpertSlots expert_slots_of(const parallel::Topology& topology, const parallel::ExpertPlacement& placement,
                            int layer, const DispatchOptions& options) {
  ExpertSlots result;
  result.slots_per_rank = placement.slots_per_rank();
  if (options.algorithm == parallel::DispatchAlgorithm::fixed) {
    result.variants.push_back(
        placement.dispatch_table(layer, topology.moe_expert_parallel_rank(), options.host_of));
    return result;
  }
  auto most = static_cast<size_t>(options.num_variants);
  for (int e = 0; options.num_variants == 0 && e < placement.num_experts(); ++e) {
    most = std::max(most, placement.replicas(layer, e).size());
  }
  for (size_t v = 0; v < most; ++v) {
    std::vector<int32_t>& slots = result.variants.emplace_back();
    for (int e = 0; e < placement.num_experts(); ++e) slots.push_back(placement.dynamic_slot(layer, e, v));
  }
  return result;
}

std::vector<ExpertSlots> expert_slots(const io::ModelConfig& config, const parallel::Topology& topology,
                                      const parallel::ExpertPlacement& placement,
                                      const DispatchOptions& options) {
  if (sharded_sizes(config).expert_intermediate == 0 || !tokens_travel(topology, placement)) return {};
  std::vector<ExpertSlots> layers;
  for (int l = 0; l < placement.num_layers(); ++l) {
    layers.push_back(expert_slots_of(topology, placement, l, options));
  }
  return layers;
}

}  // namespace chorale::model
