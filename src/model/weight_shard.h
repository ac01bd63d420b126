// Which part of every weight something holds: a store in memory, or a rank's view of it. Pure data.
#pragma once

#include <cstdint>
#include <vector>

#include "io/model_config.h"
#include "parallel/expert_placement.h"
#include "parallel/sharding_plan.h"
#include "parallel/topology.h"

namespace chorale::model {

// Ranges of canonical chunks (see parallel/sharding_plan.h), and rows of the embedding.
struct WeightShard {
  parallel::Range vocab_rows;  // rows of embed_tokens
  parallel::Range head;        // chunks of lm_head; may be empty
  parallel::Range query;       // chunks of query heads
  parallel::Range kv;          // chunks of KV heads
  parallel::Range dense;       // chunks of the dense layers' intermediate dimension
  parallel::Range expert;      // chunks of the experts' intermediate dimension
  // The logical experts of each layer, one per slot; a logical expert may have several slots. Empty for a
  // dense layer.
  std::vector<std::vector<int32_t>> experts;

  bool operator==(const WeightShard&) const = default;
};

parallel::ShardedSizes sharded_sizes(const io::ModelConfig& config);

// All of everything, each expert once.
WeightShard whole_model(const io::ModelConfig& config);

// What a rank computes with.
WeightShard shard_of(const io::ModelConfig& config, const parallel::Topology& topology,
                     const parallel::ExpertPlacement& placement);

// What a process must store so that the rank can compute: the rank's shard with each expert once.
WeightShard storage_for(const WeightShard& shard);

}  // namespace chorale::model
