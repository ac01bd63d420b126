#include "parallel/expert_placement.h"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/parallel/error_text.h"

namespace chorale::parallel {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string shape_error(const PlacementShape& shape) {
  return error_text([&] { ExpertPlacement::trivial(shape); });
}

TEST(ExpertPlacement, SlotsPerRank) {
  const auto slots = [](int experts, int ep, int redundant) {
    return PlacementShape{1, experts, ep, redundant}.slots_per_rank();
  };
  EXPECT_EQ(slots(128, 8, 0), 16);
  EXPECT_EQ(slots(128, 8, 1), 17);
  EXPECT_EQ(slots(1, 8, 0), 1);
  EXPECT_EQ(slots(7, 8, 0), 1);
  EXPECT_EQ(slots(7, 4, 2), 3);
  EXPECT_EQ(slots(3, 1, 2), 5);
}

TEST(ExpertPlacement, OneExpertIsOnEveryRankAndNothingTravels) {
  const auto placement = ExpertPlacement::trivial({.num_layers = 2, .num_experts = 1, .ep_size = 8});
  const std::vector<int> hosts(8, 0);
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_TRUE(placement.is_local(rank));
    EXPECT_THAT(placement.dispatch_table(1, rank, hosts), ElementsAre(rank));
  }
  EXPECT_EQ(to_string(placement),
            "2 layers of 1 experts in 8 slots: 1 on each of 8 ranks, 8 of which have all experts");
}

TEST(ExpertPlacement, TrivialGoesRoundRobin) {
  const auto placement =
      ExpertPlacement::trivial({.num_layers = 1, .num_experts = 3, .ep_size = 4, .num_redundant = 2});
  EXPECT_THAT(placement.physical_to_logical(0), ElementsAre(0, 1, 2, 0, 1, 2, 0, 1));
  EXPECT_THAT(placement.replicas(0, 0), ElementsAre(0, 3, 6));
  EXPECT_THAT(placement.replicas(0, 2), ElementsAre(2, 5));
  EXPECT_EQ(placement.rank_of(5), 2);
  EXPECT_FALSE(placement.is_local(0));
  EXPECT_EQ(experts_of_rank(placement, 0, 1), "0,2");
}

TEST(ExpertPlacement, OtherExpertsInTheSlotsOfOneLayer) {
  const PlacementShape shape{.num_layers = 3, .num_experts = 3, .ep_size = 2, .num_redundant = 1};
  const std::vector<int32_t> slots{2, 1, 2, 0};
  const auto placement = ExpertPlacement::trivial(shape).with_slots(1, slots);
  EXPECT_EQ(placement, ExpertPlacement::from_map(shape, {{0, 1, 2, 0}, {2, 1, 2, 0}, {0, 1, 2, 0}}));
}

TEST(ExpertPlacement, ExpertsOfARankAsText) {
  const auto placement =
      ExpertPlacement::from_map({.num_layers = 1, .num_experts = 8, .ep_size = 2, .num_redundant = 4},
                                {{7, 0, 1, 2, 0, 5, 3, 4, 5, 6, 7, 4}});
  EXPECT_EQ(experts_of_rank(placement, 0, 0), "0-2,5,7");
  EXPECT_EQ(experts_of_rank(placement, 0, 1), "3-7");
}

TEST(ExpertPlacement, DispatchPrefersTheOwnRankThenTheHost) {
  // Slots 0..5 on six ranks, two hosts of three: expert 0 on ranks 0 and 3, expert 1 on 1 and 4, expert 2 on
  // 2 and 5.
  const auto placement = ExpertPlacement::trivial({.num_layers = 1, .num_experts = 3, .ep_size = 6});
  const std::vector<int> hosts = {0, 0, 0, 7, 7, 7};
  EXPECT_THAT(placement.dispatch_table(0, 1, hosts), ElementsAre(0, 1, 2));
  EXPECT_THAT(placement.dispatch_table(0, 4, hosts), ElementsAre(3, 4, 5));
}

TEST(ExpertPlacement, DispatchSpreadsTheRestOverAllReplicas) {
  const auto placement =
      ExpertPlacement::from_map({.num_layers = 1, .num_experts = 5, .ep_size = 6}, {{0, 0, 4, 1, 2, 3}});
  const std::vector<int> hosts(6, 0);
  std::vector<int> uses(6, 0);
  for (int rank = 0; rank < 6; ++rank)
    ++uses[static_cast<size_t>(placement.dispatch_table(0, rank, hosts)[0])];
  EXPECT_THAT(uses, ElementsAre(3, 3, 0, 0, 0, 0));
}

TEST(ExpertPlacement, DynamicDispatchTakesReplicasInTurn) {
  const auto placement = ExpertPlacement::trivial({.num_layers = 1, .num_experts = 2, .ep_size = 6});
  EXPECT_EQ(placement.dynamic_slot(0, 0, 0), 0);
  EXPECT_EQ(placement.dynamic_slot(0, 0, 1), 2);
  EXPECT_EQ(placement.dynamic_slot(0, 0, 2), 4);
  EXPECT_EQ(placement.dynamic_slot(0, 0, 3), 0);
  EXPECT_EQ(placement.dynamic_slot(0, 1, 0), 3);
  EXPECT_EQ(placement.dynamic_slot(0, 1, UINT64_MAX), placement.dynamic_slot(0, 1, UINT64_MAX % 3));
}

TEST(ExpertPlacement, ImbalanceIsTheBusiestRankOverTheMean) {
  const auto placement =
      ExpertPlacement::trivial({.num_layers = 1, .num_experts = 2, .ep_size = 2, .num_redundant = 2});
  const auto apart = ExpertPlacement::trivial({.num_layers = 1, .num_experts = 2, .ep_size = 2});
  const std::vector<double> load = {30, 10};
  EXPECT_DOUBLE_EQ(placement.imbalance(0, load), 1.0);
  EXPECT_DOUBLE_EQ(apart.imbalance(0, load), 1.5);
  EXPECT_DOUBLE_EQ(apart.imbalance(0, std::vector<double>{0, 0}), 1.0);
}

TEST(ExpertPlacement, BalancedGivesBusyExpertsReplicas) {
  const PlacementShape shape{.num_layers = 2, .num_experts = 4, .ep_size = 4, .num_redundant = 4};
  const auto placement = ExpertPlacement::balanced(shape, {{100, 1, 1, 1}, {1, 1, 1, 100}});
  EXPECT_EQ(placement.replicas(0, 0).size(), 5U);
  EXPECT_EQ(placement.replicas(1, 3).size(), 5U);
  EXPECT_LT(placement.imbalance(0, std::vector<double>{100, 1, 1, 1}), 1.7);
}

TEST(ExpertPlacement, BalancedIsWhatEplbPublished) {
  const LoadRows load = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                         {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
  const PlacementShape shape{.num_layers = 2, .num_experts = 12, .ep_size = 8, .num_redundant = 4};
  const auto placement = ExpertPlacement::balanced(shape, load, {.num_groups = 4, .num_nodes = 2});
  EXPECT_THAT(placement.physical_to_logical(0),
              ElementsAre(5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1));
  EXPECT_THAT(placement.physical_to_logical(1),
              ElementsAre(7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1));
}

TEST(ExpertPlacement, ShapesOutOfRange) {
  EXPECT_THAT(shape_error({.num_layers = 1, .num_experts = 0}), HasSubstr("experts per layer is 0"));
  EXPECT_THAT(shape_error({.num_layers = 0, .num_experts = 1}), HasSubstr("layers is 0"));
  EXPECT_THAT(shape_error({.num_layers = 1, .num_experts = 1, .ep_size = 0}), HasSubstr("--ep-size is 0"));
  EXPECT_THAT(shape_error({.num_layers = 1, .num_experts = 1, .num_redundant = -1}),
              HasSubstr("--ep-num-redundant-experts is -1; it must be from 0 to"));
  EXPECT_THAT(shape_error({.num_layers = 1 << 20, .num_experts = 128, .num_redundant = 65536}),
              HasSubstr("--ep-num-redundant-experts is 65536"));
  EXPECT_THAT(error_text([] { ExpertPlacement::from_map({.num_layers = -1, .num_experts = 1}, {}); }),
              HasSubstr("layers is -1"));
}

TEST(ExpertPlacement, DispatchAlgorithmNames) {
  EXPECT_EQ(parse_dispatch_algorithm("static"), DispatchAlgorithm::fixed);
  EXPECT_EQ(parse_dispatch_algorithm("dynamic"), DispatchAlgorithm::dynamic);
  EXPECT_THAT(error_text([] { parse_dispatch_algorithm("fair"); }),
              AllOf(HasSubstr("--ep-dispatch-algorithm is \"fair\""), HasSubstr("static, dynamic")));
}

}  // namespace
}  // namespace chorale::parallel
