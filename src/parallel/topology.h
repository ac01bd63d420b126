// Who works with whom: the groups that one rank belongs to under a strategy, and its share of each split
// dimension. Immutable values, pure arithmetic; a communicator is made from a group with split(color, index).
//
// Rank layout:  rank = dp_index * tp_size + tp_index
//               rank = (moe_dp_index * ep_size + ep_index) * moe_tp_size + moe_tp_index
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/sharding_plan.h"
#include "parallel/strategy.h"

namespace chorale::parallel {

enum class GroupKind {
  world,
  attention_tp,     // share one batch and split its heads
  attention_dp,     // the same tp index in every data-parallel group
  expert_parallel,  // the same share of different experts of one replica
  expert_tensor,    // the shares of the same experts of one replica
  expert_data,      // the same share of the same experts in every replica
  expert_group,     // all ranks of one replica of the experts: tokens travel between these and no others
};
inline constexpr size_t kNumGroupKinds = 7;
std::string_view name_of(GroupKind kind);

// One group, as seen by one of its ranks. A member's index in `ranks` is its rank within the group, and the
// key for Communicator::split.
struct Group {
  std::vector<int> ranks;  // by their numbers in the world, ascending
  int index = 0;           // where this rank stands in `ranks`

  int size() const { return static_cast<int>(ranks.size()); }
  // The same for all ranks of this group, and another one for each other group of its kind.
  int color() const { return ranks.front(); }
  bool operator==(const Group&) const = default;
};

class Topology {
 public:
  // Throws Error when the strategy's sizes do not agree (check_sizes). rank: 0 to world - 1.
  Topology(const Strategy& strategy, int rank);

  const Strategy& strategy() const { return strategy_; }
  int world_size() const { return strategy_.world(); }
  int rank() const { return rank_; }
  const Group& group(GroupKind kind) const { return groups_[static_cast<size_t>(kind)]; }

  // Sizes of the groups and this rank's place in them, under the names that the field uses.
  int tensor_model_parallel_world_size() const { return group(GroupKind::attention_tp).size(); }
  int tensor_model_parallel_rank() const { return group(GroupKind::attention_tp).index; }
  int data_parallel_world_size() const { return group(GroupKind::attention_dp).size(); }
  int data_parallel_rank() const { return group(GroupKind::attention_dp).index; }
  int moe_expert_parallel_world_size() const { return group(GroupKind::expert_parallel).size(); }
  int moe_expert_parallel_rank() const { return group(GroupKind::expert_parallel).index; }
  int moe_tensor_parallel_world_size() const { return group(GroupKind::expert_tensor).size(); }
  int moe_tensor_parallel_rank() const { return group(GroupKind::expert_tensor).index; }
  int moe_data_parallel_world_size() const { return group(GroupKind::expert_data).size(); }
  int moe_data_parallel_rank() const { return group(GroupKind::expert_data).index; }

  bool operator==(const Topology&) const = default;

 private:
  Strategy strategy_;
  int rank_ = 0;
  std::array<Group, kNumGroupKinds> groups_;
};

// One line: the rank, and for each kind of group its place and the members.
std::string to_string(const Topology& topology);

// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool operator==(const Range&) const = default;
};

// Part `index` of `total` things that `parts` ranks share, in order and as evenly as possible: the first ones
// get one more when it does not come out even. total >= 0, parts >= 1.
Range even_range(int64_t total, int parts, int index);

// This rank's share, in canonical chunks of the dimension. The strategy has passed check_strategy for the
// sizes, so all shares but vocabulary's are equal and not empty.
Range query_head_chunks(const Topology& topology, const ShardedSizes& sizes);
// With fewer heads than ranks, neighbours hold the same head: rank r has head r * kv_heads / tp_size.
Range kv_head_chunks(const Topology& topology, const ShardedSizes& sizes);
Range intermediate_chunks(const Topology& topology, const ShardedSizes& sizes);
Range expert_intermediate_chunks(const Topology& topology, const ShardedSizes& sizes);
// The vocabulary need not divide: shares may be uneven, and empty.
Range vocab_chunks(const Topology& topology, const ShardedSizes& sizes);
// By the sharding plan; {0, 1} for what is replicated.
Range chunks_for(const ShardingRule& rule, const Topology& topology, const ShardedSizes& sizes);

// The elements (heads, rows, ...) in a range of canonical chunks of a dimension of this size.
Range elements_of_chunks(const Range& chunks, int64_t size, const ShardedSizes& sizes);

}  // namespace chorale::parallel
