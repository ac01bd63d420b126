// What holds for every placement, whatever the experts, ranks, redundancy and load.
#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/expert_placement.h"
#include "parallel/strategy.h"
#include "unit/parallel/random_draw.h"
#include "unit/parallel/reference_eplb.h"
#include "unit/random_cases.h"

namespace chorale::parallel {
namespace {

constexpr int kRounds = random_cases(2500);

size_t at(int i) {
  return static_cast<size_t>(i);
}

PlacementShape random_shape(RandomDraw& draw) {
  // A world, and an expert-parallel size that divides it.
  const int world = draw.chance(3) ? draw.one_of({1, 2, 4, 8, 16, 64}) : draw.between(1, 72);
  int ep_size = draw.between(1, world);
  while (world % ep_size != 0) ep_size = draw.between(1, world);
  const Strategy strategy = resolve_strategy({.tp_size = world, .ep_size = ep_size}, 2);
  return {.num_layers = draw.between(1, 2),
          .num_experts = draw.chance(3) ? draw.between(1, 9) : draw.between(1, 300),
          .ep_size = strategy.ep_size,
          .num_redundant = draw.chance(2) ? 0 : draw.below(draw.one_of({4, 64, 300}))};
}

std::vector<double> random_row(RandomDraw& draw, int num_experts) {
  std::vector<double> row(at(num_experts), 0.0);
  const int kind = draw.below(5);
  for (double& load : row) {
    if (kind == 1) load = draw.below(1000);
    if (kind == 2) load = 1000.0 / draw.between(1, 500);         // few busy ones
    if (kind == 3) load = draw.chance(10) ? draw.below(99) : 0;  // mostly idle
    if (kind == 4) load = 7;
  }
  return row;
}

LoadRows random_load(RandomDraw& draw, const PlacementShape& shape) {
  LoadRows load;
  for (int layer = 0; layer < shape.num_layers; ++layer) load.push_back(random_row(draw, shape.num_experts));
  return load;
}

std::string described(const PlacementShape& s) {
  return fmt::format("layers {} experts {} ep {} redundant {}", s.num_layers, s.num_experts, s.ep_size,
                     s.num_redundant);
}

std::vector<int> slots_of(const ExpertPlacement& placement, int layer) {
  const auto slots = placement.physical_to_logical(layer);
  return {slots.begin(), slots.end()};
}

void expect_sound(const ExpertPlacement& placement) {
  const PlacementShape& shape = placement.shape();
  ASSERT_GE(placement.slots_per_rank(), 1);
  ASSERT_EQ(placement.slots_per_rank(),
            std::max(1, (shape.num_experts + shape.num_redundant + shape.ep_size - 1) / shape.ep_size));
  ASSERT_EQ(placement.num_slots(), placement.slots_per_rank() * shape.ep_size);
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const std::vector<int> slots = slots_of(placement, layer);
    ASSERT_EQ(slots.size(), at(placement.num_slots()));
    size_t all_replicas = 0;
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      const auto replicas = placement.replicas(layer, expert);
      ASSERT_FALSE(replicas.empty()) << "expert " << expert;
      ASSERT_TRUE(std::is_sorted(replicas.begin(), replicas.end()));
      for (const int32_t slot : replicas) ASSERT_EQ(slots.at(at(slot)), expert);
      all_replicas += replicas.size();
    }
    ASSERT_EQ(all_replicas, slots.size());
  }
}

// How near a slot is to a rank: 0 its own, 1 on its host, 2 elsewhere.
int distance(const ExpertPlacement& placement, int rank, int slot, const std::vector<int>& hosts) {
  const int owner = placement.rank_of(slot);
  return owner == rank ? 0 : hosts[at(owner)] == hosts[at(rank)] ? 1 : 2;
}

void expect_valid_dispatch(const ExpertPlacement& placement, int layer, const std::vector<int>& hosts) {
  const bool one_host = std::all_of(hosts.begin(), hosts.end(), [&](int h) { return h == hosts[0]; });
  std::vector<int> uses(at(placement.num_slots()), 0);
  for (int rank = 0; rank < placement.ep_size(); ++rank) {
    const std::vector<int32_t> table = placement.dispatch_table(layer, rank, hosts);
    ASSERT_EQ(table.size(), at(placement.num_experts()));
    bool all_own = true;
    for (int expert = 0; expert < placement.num_experts(); ++expert) {
      const int slot = table[at(expert)];
      ASSERT_TRUE(slot >= 0 && slot < placement.num_slots());
      ASSERT_EQ(placement.physical_to_logical(layer)[at(slot)], expert);
      const int chosen = distance(placement, rank, slot, hosts);
      for (const int32_t other : placement.replicas(layer, expert))
        ASSERT_LE(chosen, distance(placement, rank, other, hosts));
      all_own = all_own && chosen == 0;
      ++uses[at(slot)];
    }
    if (placement.is_local(rank)) {
      ASSERT_TRUE(all_own);
    } else if (placement.num_layers() == 1) {
      ASSERT_FALSE(all_own);
    }
  }
  if (!one_host) return;
  for (int expert = 0; expert < placement.num_experts(); ++expert) {
    const auto replicas = placement.replicas(layer, expert);
    const auto fewer = [&](int32_t a, int32_t b) { return uses[at(a)] < uses[at(b)]; };
    const auto [least, most] = std::minmax_element(replicas.begin(), replicas.end(), fewer);
    ASSERT_LE(uses[at(*most)] - uses[at(*least)], 1) << "expert " << expert;
  }
}

TEST(ExpertPlacementProperty, EveryExpertHasASlotAndEveryRankTheSameNumber) {
  RandomDraw draw(21);
  for (int i = 0; i < kRounds && !testing::Test::HasFailure(); ++i) {
    const PlacementShape shape = random_shape(draw);
    SCOPED_TRACE(described(shape));
    expect_sound(ExpertPlacement::trivial(shape));
    expect_sound(
        ExpertPlacement::balanced(shape, random_load(draw, shape),
                                  {.num_groups = draw.between(1, 4), .num_nodes = draw.between(1, 4)}));
  }
}

TEST(ExpertPlacementProperty, DispatchEntriesAreValidNearAndFair) {
  RandomDraw draw(22);
  for (int i = 0; i < random_cases(250) && !testing::Test::HasFailure(); ++i) {
    PlacementShape shape = random_shape(draw);
    shape.ep_size = std::min(shape.ep_size, 24);
    SCOPED_TRACE(described(shape));
    std::vector<int> hosts;
    const int num_hosts = draw.between(1, 4);
    for (int rank = 0; rank < shape.ep_size; ++rank) hosts.push_back(draw.below(num_hosts));
    const int layer = shape.num_layers - 1;
    expect_valid_dispatch(ExpertPlacement::trivial(shape), layer, hosts);
    expect_valid_dispatch(ExpertPlacement::balanced(shape, random_load(draw, shape)), layer, hosts);
  }
}

TEST(ExpertPlacementProperty, DynamicDispatchUsesEveryReplicaEqually) {
  RandomDraw draw(23);
  for (int i = 0; i < kRounds && !testing::Test::HasFailure(); ++i) {
    const PlacementShape shape = random_shape(draw);
    SCOPED_TRACE(described(shape));
    const auto placement = ExpertPlacement::balanced(shape, random_load(draw, shape));
    const int expert = draw.below(shape.num_experts);
    const auto replicas = placement.replicas(0, expert);
    const uint64_t start = static_cast<uint64_t>(draw.below(1 << 30)) << draw.below(34);
    std::vector<int32_t> used;
    for (size_t t = 0; t < 2 * replicas.size(); ++t) {
      used.push_back(placement.dynamic_slot(0, expert, start + t));
      EXPECT_EQ(used.back(), placement.dynamic_slot(0, expert, start + t));
    }
    std::sort(used.begin(), used.end());
    for (size_t r = 0; r < used.size(); ++r) EXPECT_EQ(used[r], replicas[r / 2]);
  }
}

TEST(ExpertPlacementProperty, BalanceIsNoWorseThanEplbAndThanTrivial) {
  RandomDraw draw(24);
  int better_than_trivial = 0;
  for (int i = 0; i < kRounds && !testing::Test::HasFailure(); ++i) {
    const PlacementShape shape = random_shape(draw);
    SCOPED_TRACE(described(shape));
    const LoadRows load = random_load(draw, shape);
    const auto balanced = ExpertPlacement::balanced(shape, load);
    const auto trivial = ExpertPlacement::trivial(shape);
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      const std::vector<double>& row = load[at(layer)];
      const auto measure = [&](const std::vector<int>& slots) {
        return reference::max_over_mean(row, slots, shape.ep_size);
      };
      const double mine = measure(slots_of(balanced, layer));
      const double simple = measure(slots_of(trivial, layer));
      EXPECT_LE(mine, simple * (1 + 1e-9));
      EXPECT_LE(mine,
                measure(reference::rebalance(row, shape.num_slots(), 1, 1, shape.ep_size)) * (1 + 1e-9));
      EXPECT_NEAR(mine, balanced.imbalance(layer, row), 1e-9 * mine);
      better_than_trivial += mine < simple * 0.999 ? 1 : 0;
    }
  }
  EXPECT_GT(better_than_trivial, kRounds / 4);
}

// The experts of a group have all their replicas on one node.
void expect_groups_together(const ExpertPlacement& placement, int groups, int nodes) {
  std::vector<int> node_of(at(groups), -1);
  const std::vector<int> slots = slots_of(placement, 0);
  for (int slot = 0; slot < placement.num_slots(); ++slot) {
    const int group = slots[at(slot)] / (placement.num_experts() / groups);
    const int node = slot / (placement.num_slots() / nodes);
    if (node_of[at(group)] < 0) node_of[at(group)] = node;
    EXPECT_EQ(node_of[at(group)], node) << "group " << group;
  }
}

TEST(ExpertPlacementProperty, GroupLimitedBalanceKeepsGroupsTogetherAndIsNoWorseThanEplb) {
  RandomDraw draw(25);
  for (int i = 0; i < kRounds && !testing::Test::HasFailure(); ++i) {
    const int nodes = draw.between(1, 4);
    const int groups = nodes * draw.between(1, 4);
    const PlacementShape shape{.num_layers = 1,
                               .num_experts = groups * draw.between(1, 16),
                               .ep_size = nodes * draw.between(1, 8),
                               .num_redundant = draw.below(40)};
    SCOPED_TRACE(described(shape));
    const LoadRows load = random_load(draw, shape);
    const auto balanced = ExpertPlacement::balanced(
        shape, load, {.algorithm = EplbAlgorithm::hierarchical, .num_groups = groups, .num_nodes = nodes});
    if (nodes > 1) expect_groups_together(balanced, groups, nodes);
    const auto eplb = reference::rebalance(load[0], shape.num_slots(), groups, nodes, shape.ep_size);
    EXPECT_LE(reference::max_over_mean(load[0], slots_of(balanced, 0), shape.ep_size),
              reference::max_over_mean(load[0], eplb, shape.ep_size) * (1 + 1e-9));
  }
}

}  // namespace
}  // namespace chorale::parallel
