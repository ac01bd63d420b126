#include "engine/runner_parts.h"

#include <utility>

namespace chorale::engine {
namespace {

// The rank's view of what is stored. With the whole embedding at hand it is used as it is.
model::ModelWeights weights_of(const RunnerParts& parts, const RankPart& part) {
  model::WeightShard wanted = part.shard;
  if (parts.stored.vocab_rows == parallel::Range{0, parts.config.vocab_size}) {
    wanted.vocab_rows = parts.stored.vocab_rows;
  }
  return model::select_weights(parts.weights, parts.stored, wanted);
}

}  // namespace

model::RankGroups split_groups(const comm::Communicator& world, const parallel::Topology& topology) {
  const auto split = [&](parallel::GroupKind kind) {
    const parallel::Group& group = topology.group(kind);
    return world.split(group.color(), group.index);
  };
  // In this order on every rank.
  comm::Communicator attention = split(parallel::GroupKind::attention_tp);
  comm::Communicator experts = split(parallel::GroupKind::expert_group);
  return {std::move(attention), std::move(experts)};
}

RankRunner::Parts parts_of(const RunnerParts& parts, int rank, model::RankGroups groups) {
  const RankPart& part = parts.plan.ranks[static_cast<size_t>(rank)];
  return {.config = parts.config,
          .part = part,
          .weights = weights_of(parts, part),
          .groups = std::move(groups),
          .limits = parts.limits,
          .num_blocks = parts.num_blocks,
          .kv_dtype = parts.kv_dtype,
          .device = parts.device,
          .isa = parts.isa,
          .num_threads = parts.threads_per_rank,
          .profile = rank == 0 ? parts.profile : nullptr};
}

}  // namespace chorale::engine
