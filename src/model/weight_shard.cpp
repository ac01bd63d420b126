#include "model/weight_shard.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "model/rank_plan.h"

namespace chorale::model {
namespace {

using parallel::Range;

// A model without such layers has nothing to split.
Range all_chunks(const parallel::ShardedSizes& sizes, int64_t size) {
  return {0, size > 0 ? sizes.chunks(size) : 1};
}

std::vector<int32_t> all_experts(int64_t count) {
  std::vector<int32_t> experts(static_cast<size_t>(count));
  std::iota(experts.begin(), experts.end(), 0);
  return experts;
}

}  // namespace

parallel::ShardedSizes sharded_sizes(const io::ModelConfig& config) {
  int64_t dense_layers = 0;
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) dense_layers += config.is_sparse_layer(l) ? 0 : 1;
  return {.vocab = config.vocab_size,
          .query_heads = config.num_attention_heads,
          .kv_heads = config.num_key_value_heads,
          .intermediate = dense_layers > 0 ? config.intermediate_size : 0,
          .expert_intermediate = dense_layers < config.num_hidden_layers ? config.moe_intermediate_size : 0,
          .max_chunks = config.max_tp_size};
}

WeightShard whole_model(const io::ModelConfig& config) {
  const parallel::ShardedSizes sizes = sharded_sizes(config);
  WeightShard shard{.vocab_rows = {0, config.vocab_size},
                    .head = all_chunks(sizes, sizes.vocab),
                    .query = all_chunks(sizes, sizes.query_heads),
                    .kv = all_chunks(sizes, sizes.kv_heads),
                    .dense = all_chunks(sizes, sizes.intermediate),
                    .expert = all_chunks(sizes, sizes.expert_intermediate),
                    .experts = {}};
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    shard.experts.push_back(all_experts(config.is_sparse_layer(l) ? config.num_experts : 0));
  }
  return shard;
}

WeightShard shard_of(const io::ModelConfig& config, const parallel::Topology& topology,
                     const parallel::ExpertPlacement& placement) {
  const parallel::ShardedSizes sizes = sharded_sizes(config);
  WeightShard shard;
  shard.head = parallel::vocab_chunks(topology, sizes);
  shard.vocab_rows = parallel::even_range(config.vocab_size, topology.tensor_model_parallel_world_size(),
                                          topology.tensor_model_parallel_rank());
  shard.query = parallel::query_head_chunks(topology, sizes);
  shard.kv = parallel::kv_head_chunks(topology, sizes);
  shard.dense = sizes.intermediate > 0 ? parallel::intermediate_chunks(topology, sizes) : Range{0, 1};
  shard.expert =
      sizes.expert_intermediate > 0 ? parallel::expert_intermediate_chunks(topology, sizes) : Range{0, 1};

  const bool travel = tokens_travel(topology, placement);
  const auto first = static_cast<size_t>(topology.moe_expert_parallel_rank() * placement.slots_per_rank());
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    if (!config.is_sparse_layer(l)) {
      shard.experts.emplace_back();
    } else if (!travel) {
      shard.experts.push_back(all_experts(config.num_experts));
    } else {
      const auto slots = placement.physical_to_logical(static_cast<int>(l))
                             .subspan(first, static_cast<size_t>(placement.slots_per_rank()));
      shard.experts.emplace_back(slots.begin(), slots.end());
    }
  }
  return shard;
}

WeightShard storage_for(const WeightShard& shard) {
  WeightShard storage = shard;
  for (std::vector<int32_t>& experts : storage.experts) {
    std::sort(experts.begin(), experts.end());
    experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  }
  return storage;
}

}  // namespace chorale::model
