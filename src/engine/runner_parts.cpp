#include "engine/runner_parts.h"

#include <utility>

#include "base/error.h"

namespace chorale::engine {
namespace {

// The rank's view of what is stored. With the whole embedding at hand it is used as it is.
model::ModelWeights weights_of(const RunnerParts& parts, int rank) {
  const StoredWeights& stored = parts.stored_of(rank);
  model::WeightShard wanted = parts.plan.ranks[static_cast<size_t>(rank)].shard;
  if (stored.shard.vocab_rows == parallel::Range{0, parts.config.vocab_size}) {
    wanted.vocab_rows = stored.shard.vocab_rows;
  }
  return model::select_weights(stored.weights, stored.shard, wanted);
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
          .weights = weights_of(parts, rank),
          .groups = std::move(groups),
          .limits = parts.limits,
          .num_blocks = parts.num_blocks,
          .kv_dtype = parts.kv_dtype,
          .device = parts.device_of(rank),
          .isa = parts.isa,
          .num_threads = parts.threads_per_rank,
          .records_steps = parts.records_steps,
          .step_timeout = parts.collective_timeout,
          .profile = rank == 0 ? parts.profile : nullptr};
}

}  // namespace chorale::engine
