#include "engine/runner_parts.h"

namespace chorale::engine {

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

model::ModelWeights weights_of(const RunnerParts& parts, const RankPart& part) {
  model::WeightShard wanted = part.shard;
  if (parts.stored.vocab_rows == parallel::Range{0, parts.config.vocab_size}) {
    wanted.vocab_rows = parts.stored.vocab_rows;
  }
  return model::select_weights(parts.weights, parts.stored, wanted);
}

}  // namespace chorale::engine
