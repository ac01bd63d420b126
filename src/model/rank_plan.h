// What one rank computes, and with whom: the sizes of its part of the model and the groups it exchanges data
// with.
#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "comm/communicator.h"
#include "io/model_config.h"
#include "model/step_inputs.h"
#include "model/weight_shard.h"
#include "parallel/expert_placement.h"
#include "parallel/topology.h"

namespace chorale::model {

// The groups of one rank. A communicator of one where the group has one member.
struct RankGroups {
  comm::Communicator attention;  // the ranks that share a batch and split heads, in order of their index
  comm::Communicator
      experts;  // the ranks that tokens may travel between, in order of expert and then tensor index
};

// Which physical slot a rank uses for each logical expert of a layer. Variants are used in turn.
struct ExpertSlots {
  std::vector<std::vector<int32_t>> variants;  // [variants][E]; at least one
  int64_t slots_per_rank = 0;
};

// Sizes of a rank's part. Pure arithmetic.
struct RankExtent {
  int64_t tp_size = 1;
  int64_t tp_rank = 0;
  int64_t query_heads = 0;
  int64_t kv_heads = 0;
  int64_t dense_intermediate = 0;
  int64_t expert_intermediate = 0;
  int64_t fewest_chunks = 1;  // canonical chunks of inputs of any matrix whose results are added up
  int64_t head_columns = 0;   // outputs of lm_head on the rank of the TP group that has most
  int64_t num_experts = 0;    // that this rank multiplies with: its slots, or all when no token travels
  bool dispatches = false;    // whether tokens travel to their experts
  int64_t group_size = 1;     // ranks that they travel between: the expert group's
  int64_t copies = 1;         // ranks that split an expert
  int64_t max_home_tokens = 0;
  int64_t max_sent_rows = 0;      // 0 unless it dispatches
  int64_t max_received_rows = 0;  // rows that experts may get: home tokens, or what travels here
};

// Whether tokens travel: not when every rank of the group owns a replica of every expert and splits none.
bool tokens_travel(const parallel::Topology& topology, const parallel::ExpertPlacement& placement);

RankExtent rank_extent(const io::ModelConfig& config, const parallel::Topology& topology,
                       const parallel::ExpertPlacement& placement, const StepLimits& limits);

// How a rank chooses among the replicas of an expert.
struct DispatchOptions {
  parallel::DispatchAlgorithm algorithm = parallel::DispatchAlgorithm::fixed;
  std::vector<int> host_of;  // each expert-parallel rank's host [ep_size]
  // Of ExpertSlots, with the dynamic algorithm; 0: so many as an expert of the layer has replicas.
  int64_t num_variants = 0;
};

// Of one layer, where tokens travel.
ExpertSlots expert_slots_of(const parallel::Topology& topology, const parallel::ExpertPlacement& placement,
                            int layer, const DispatchOptions& options);

// By layer [layers]; empty when no token travels.
std::vector<ExpertSlots> expert_slots(const io::ModelConfig& config, const parallel::Topology& topology,
                                      const parallel::ExpertPlacement& placement,
                                      const DispatchOptions& options);

}  // namespace chorale::model
