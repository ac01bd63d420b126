#include "parallel/topology.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"

namespace chorale::parallel {
namespace {

constexpr std::array<GroupKind, kNumGroupKinds> kKinds = {
    GroupKind::world,         GroupKind::attention_tp, GroupKind::attention_dp, GroupKind::expert_parallel,
    GroupKind::expert_tensor, GroupKind::expert_data,  GroupKind::expert_group};

// A rank's place in both layouts.
struct Indices {
  int tp = 0;
  int dp = 0;
  int ep = 0;
  int moe_tp = 0;
  int moe_dp = 0;
};

Indices indices_of(const Strategy& s, int rank) {
  return {.tp = rank % s.tp_size,
          .dp = rank / s.tp_size,
          .ep = rank / s.moe_tp_size % s.ep_size,
          .moe_tp = rank % s.moe_tp_size,
          .moe_dp = rank / s.moe_tp_size / s.ep_size};
}

bool together(GroupKind kind, const Indices& a, const Indices& b) {
  switch (kind) {
    case GroupKind::world:
      return true;
    case GroupKind::attention_tp:
      return a.dp == b.dp;
    case GroupKind::attention_dp:
      return a.tp == b.tp;
    case GroupKind::expert_parallel:
      return a.moe_dp == b.moe_dp && a.moe_tp == b.moe_tp;
    case GroupKind::expert_tensor:
      return a.moe_dp == b.moe_dp && a.ep == b.ep;
    case GroupKind::expert_data:
      return a.ep == b.ep && a.moe_tp == b.moe_tp;
    case GroupKind::expert_group:
      return a.moe_dp == b.moe_dp;
  }
  return false;
}

Group group_of(GroupKind kind, const Strategy& strategy, int rank) {
  Group group;
  const Indices mine = indices_of(strategy, rank);
  for (int other = 0; other < strategy.world(); ++other) {
    if (!together(kind, mine, indices_of(strategy, other))) continue;
    if (other == rank) group.index = group.size();
    group.ranks.push_back(other);
  }
  return group;
}

// Share `index` of `chunks` that `parts` ranks split or, when there are fewer chunks than ranks, share.
Range share_of(int64_t chunks, int parts, int index) {
  CHORALE_CHECK(chunks % parts == 0 || parts % chunks == 0, "{} chunks on {} ranks", chunks, parts);
  const int64_t begin = index * chunks / parts;
  return {begin, begin + std::max<int64_t>(chunks / parts, 1)};
}

// The ranks own different chunks, so there must be enough of them.
Range split_share_of(const ShardedSizes& sizes, int64_t size, int parts, int index) {
  const int64_t chunks = sizes.chunks(size);
  CHORALE_CHECK(chunks % parts == 0, "{} chunks on {} ranks", chunks, parts);
  return share_of(chunks, parts, index);
}

}  // namespace

std::string_view name_of(GroupKind kind) {
  switch (kind) {
    case GroupKind::world:
      return "world";
    case GroupKind::attention_tp:
      return "attention_tp";
    case GroupKind::attention_dp:
      return "attention_dp";
    case GroupKind::expert_parallel:
      return "expert_parallel";
    case GroupKind::expert_tensor:
      return "expert_tensor";
    case GroupKind::expert_data:
      return "expert_data";
    case GroupKind::expert_group:
      return "expert_group";
  }
  return "?";
}

Topology::Topology(const Strategy& strategy, int rank) : strategy_(strategy), rank_(rank) {
  check_sizes(strategy);
  CHORALE_CHECK(rank >= 0 && rank < strategy.world(), "rank {} of {}", rank, strategy.world());
  for (const GroupKind kind : kKinds) groups_[static_cast<size_t>(kind)] = group_of(kind, strategy, rank);
}

std::string to_string(const Topology& topology) {
  std::string text = fmt::format("rank {}:", topology.rank());
  for (const GroupKind kind : kKinds) {
    const Group& group = topology.group(kind);
    text += fmt::format(" {} {} of {} [{}]", name_of(kind), group.index, group.size(),
                        fmt::join(group.ranks, " "));
  }
  return text;
}

Range even_range(int64_t total, int parts, int index) {
  const int64_t each = total / parts;
  const int64_t more = total % parts;
  const int64_t begin = index * each + std::min<int64_t>(index, more);
  return {begin, begin + each + (index < more ? 1 : 0)};
}

Range query_head_chunks(const Topology& topology, const ShardedSizes& sizes) {
  return split_share_of(sizes, sizes.query_heads, topology.strategy().tp_size,
                        topology.tensor_model_parallel_rank());
}

Range kv_head_chunks(const Topology& topology, const ShardedSizes& sizes) {
  return share_of(sizes.chunks(sizes.kv_heads), topology.strategy().tp_size,
                  topology.tensor_model_parallel_rank());
}

Range intermediate_chunks(const Topology& topology, const ShardedSizes& sizes) {
  return split_share_of(sizes, sizes.intermediate, topology.strategy().tp_size,
                        topology.tensor_model_parallel_rank());
}

Range expert_intermediate_chunks(const Topology& topology, const ShardedSizes& sizes) {
  return split_share_of(sizes, sizes.expert_intermediate, topology.strategy().moe_tp_size,
                        topology.moe_tensor_parallel_rank());
}

Range vocab_chunks(const Topology& topology, const ShardedSizes& sizes) {
  return even_range(sizes.chunks(sizes.vocab), topology.strategy().tp_size,
                    topology.tensor_model_parallel_rank());
}

Range chunks_for(const ShardingRule& rule, const Topology& topology, const ShardedSizes& sizes) {
  switch (rule.unit) {
    case ChunkUnit::none:
      return {0, 1};
    case ChunkUnit::vocab:
      return vocab_chunks(topology, sizes);
    case ChunkUnit::query_heads:
      return query_head_chunks(topology, sizes);
    case ChunkUnit::kv_heads:
      return kv_head_chunks(topology, sizes);
    case ChunkUnit::intermediate:
      return intermediate_chunks(topology, sizes);
    case ChunkUnit::expert_intermediate:
      return expert_intermediate_chunks(topology, sizes);
  }
  return {0, 1};
}

Range elements_of_chunks(const Range& chunks, int64_t size, const ShardedSizes& sizes) {
  const int64_t per_chunk = size / sizes.chunks(size);
  return {chunks.begin * per_chunk, chunks.end * per_chunk};
}

}  // namespace chorale::parallel
