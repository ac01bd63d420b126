#include "parallel/eplb.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/parallel/error_text.h"
#include "unit/parallel/random_draw.h"
#include "unit/parallel/reference_eplb.h"
#include "unit/random_cases.h"

namespace chorale::parallel {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The example of EPLB's README.
const LoadRows kReadmeLoad = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                              {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
constexpr EplbSizes kReadmeSizes{.num_replicas = 16, .num_groups = 4, .num_nodes = 2, .num_gpus = 8};

TEST(Eplb, ThePublishedExample) {
  for (const auto algorithm : {EplbAlgorithm::automatic, EplbAlgorithm::hierarchical}) {
    EXPECT_THAT(rebalance_experts(kReadmeLoad, kReadmeSizes, algorithm),
                ElementsAre(ElementsAre(5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1),
                            ElementsAre(7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1)));
  }
}

TEST(Eplb, GlobalIgnoresGroupsAndNodes) {
  EplbSizes flat = kReadmeSizes;
  flat.num_groups = flat.num_nodes = 1;
  const auto global = rebalance_experts(kReadmeLoad, kReadmeSizes, EplbAlgorithm::global);
  EXPECT_EQ(global, rebalance_experts(kReadmeLoad, flat, EplbAlgorithm::hierarchical));
  EXPECT_NE(global, rebalance_experts(kReadmeLoad, kReadmeSizes));
  EplbSizes uneven = kReadmeSizes;
  uneven.num_groups = 3;  // does not divide by two nodes
  EXPECT_EQ(global, rebalance_experts(kReadmeLoad, uneven, EplbAlgorithm::automatic));
}

TEST(Eplb, PackingFillsTheLightestPackThatHasRoom) {
  const std::vector<double> weights = {1, 9, 3, 3, 8, 4};
  const Packing packing = balanced_packing(weights, 2);
  EXPECT_THAT(packing.pack, ElementsAre(1, 0, 0, 0, 1, 1));
  EXPECT_THAT(packing.place, ElementsAre(2, 0, 1, 2, 0, 1));
}

TEST(Eplb, PackingOnePerPackMovesNothing) {
  const std::vector<double> weights = {1, 9, 3};
  EXPECT_THAT(balanced_packing(weights, 3).pack, ElementsAre(0, 1, 2));
  EXPECT_THAT(balanced_packing(weights, 3).place, ElementsAre(0, 0, 0));
}

TEST(Eplb, ReplicasGoToTheBusiest) {
  const std::vector<double> weights = {10, 30, 12};
  const Replication replicas = replicate_experts(weights, 6);
  EXPECT_THAT(replicas.item_of, ElementsAre(0, 1, 2, 1, 1, 2));
  EXPECT_THAT(replicas.count, ElementsAre(1, 3, 2));
}

TEST(Eplb, WithoutLoadReplicasAreSpread) {
  const auto placement = rebalance_experts({{0, 0, 0}}, {.num_replicas = 6, .num_gpus = 3});
  std::vector<int> slots = placement.at(0);
  std::sort(slots.begin(), slots.end());
  EXPECT_THAT(slots, ElementsAre(0, 0, 1, 1, 2, 2));
}

TEST(Eplb, SameAsThePlainOneOnRandomLoads) {
  RandomDraw draw(11);
  for (int i = 0; i < random_cases(3000) && !testing::Test::HasFailure(); ++i) {
    const int nodes = draw.between(1, 4);
    const int gpus = nodes * draw.between(1, 6);
    const int groups = nodes * draw.between(1, 3);
    const int experts = groups * draw.between(1, 12);
    const int replicas = ((experts + gpus - 1) / gpus + draw.below(4)) * gpus;
    std::vector<double> load;
    for (int e = 0; e < experts; ++e) load.push_back(draw.below(draw.one_of({2, 10, 10000})));
    load[0] += 1;  // not without any load
    const auto mine =
        rebalance_experts({load}, {replicas, groups, nodes, gpus}, EplbAlgorithm::hierarchical).at(0);
    EXPECT_EQ(mine, reference::rebalance(load, replicas, groups, nodes, gpus));
    const auto global =
        rebalance_experts({load}, {replicas, groups, nodes, gpus}, EplbAlgorithm::global).at(0);
    EXPECT_EQ(global, reference::rebalance(load, replicas, 1, 1, gpus));
  }
}

TEST(Eplb, GroupsStayOnTheirNode) {
  RandomDraw draw(12);
  for (int i = 0; i < 200; ++i) {
    std::vector<double> load;
    for (int e = 0; e < 24; ++e) load.push_back(draw.below(100));
    const auto slots =
        rebalance_experts({load}, {.num_replicas = 48, .num_groups = 6, .num_nodes = 3, .num_gpus = 12});
    std::vector<int> node_of_group(6, -1);
    for (int slot = 0; slot < 48; ++slot) {
      int& node = node_of_group[static_cast<size_t>(slots[0][static_cast<size_t>(slot)] / 4)];
      if (node < 0) node = slot / 16;
      EXPECT_EQ(node, slot / 16);
    }
  }
}

TEST(Eplb, Errors) {
  const auto error = [](const LoadRows& load, const EplbSizes& sizes, EplbAlgorithm algorithm) {
    return error_text([&] { rebalance_experts(load, sizes, algorithm); });
  };
  const auto automatic = EplbAlgorithm::automatic;
  EXPECT_THAT(error({{1, 2, 3}}, {.num_replicas = 2}, automatic), HasSubstr("2 slots for 3 experts"));
  EXPECT_THAT(error({{}}, {.num_replicas = 2}, automatic), HasSubstr("2 slots for 0 experts"));
  EXPECT_THAT(error({{1, 2, 3}}, {.num_replicas = 4, .num_gpus = 3}, automatic), HasSubstr("4 slots"));
  EXPECT_THAT(error({{1, 2, 3}}, {.num_replicas = 4, .num_groups = 0}, automatic), HasSubstr("at least 1"));
  EXPECT_THAT(error({{1, 2}, {1}}, {.num_replicas = 2}, automatic), HasSubstr("layer 1 has 1 experts"));
  for (const double bad : {-1.0, std::nan(""), std::numeric_limits<double>::infinity(), 1e300})
    EXPECT_THAT(error({{1, bad}}, {.num_replicas = 2}, automatic), HasSubstr("layer 0 has a load of"));
  EXPECT_THAT(
      error({{1, 2, 3}}, {.num_replicas = 4, .num_nodes = 2, .num_gpus = 2}, EplbAlgorithm::hierarchical),
      AllOf(HasSubstr("--eplb-algorithm hierarchical"), HasSubstr("1 groups on 2 nodes"),
            HasSubstr("auto, global")));
  EXPECT_TRUE(rebalance_experts({}, {}).empty());
}

TEST(Eplb, AlgorithmNames) {
  EXPECT_EQ(parse_eplb_algorithm("auto"), EplbAlgorithm::automatic);
  EXPECT_EQ(parse_eplb_algorithm("hierarchical"), EplbAlgorithm::hierarchical);
  EXPECT_EQ(parse_eplb_algorithm("global"), EplbAlgorithm::global);
  EXPECT_THAT(error_text([] { parse_eplb_algorithm("best"); }),
              AllOf(HasSubstr("--eplb-algorithm is \"best\""), HasSubstr("auto, hierarchical, global")));
}

}  // namespace
}  // namespace chorale::parallel
