#include "server/metrics/expert_distribution.h"

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

// Two layers of four experts on two ranks: rank 0 has experts 0 and 1, rank 1 has 2 and 3.
parallel::ExpertPlacement placement() {
  return parallel::ExpertPlacement::trivial({.num_layers = 2, .num_experts = 4, .ep_size = 2});
}

TEST(ExpertDistribution, RecordsTheDifferenceOfTwoMoments) {
  const parallel::ExpertPlacement place = placement();
  ExpertDistribution distribution(&place);
  const std::vector<int64_t> before{1, 1, 1, 1, 0, 0, 0, 0};
  const std::vector<int64_t> then{4, 1, 2, 1, 0, 5, 0, 5};
  const std::vector<int64_t> later{9, 9, 9, 9, 9, 9, 9, 9};
  EXPECT_FALSE(distribution.dump(before).has_value());
  distribution.stop(before);  // nothing to stop
  EXPECT_FALSE(distribution.dump(before).has_value());

  distribution.start(before);
  Json json = *distribution.dump(then);
  EXPECT_EQ(json["recording"], true);
  EXPECT_EQ(json["logical_count"], (Json{{3, 0, 1, 0}, {0, 5, 0, 5}}));
  EXPECT_EQ(json["balancedness"], (Json{1.5, 1.0}));  // 3 of 4 on rank 0; then 5 and 5

  distribution.stop(then);
  distribution.stop(later);  // it has ended already
  json = *distribution.dump(later);
  EXPECT_EQ(json["recording"], false);
  EXPECT_EQ(json["logical_count"], (Json{{3, 0, 1, 0}, {0, 5, 0, 5}}));

  distribution.start(later);
  EXPECT_EQ((*distribution.dump(later))["logical_count"], (Json{{0, 0, 0, 0}, {0, 0, 0, 0}}));
}

TEST(ExpertDistribution, WhatItDumpsIsAPlacementsLoad) {
  const parallel::ExpertPlacement place = placement();
  ExpertDistribution distribution(&place);
  distribution.start(std::vector<int64_t>(8, 0));
  const std::vector<int64_t> counts{100, 1, 1, 1, 1, 1, 1, 100};
  const std::string text = distribution.dump(counts)->dump();
  const auto balanced = parallel::ExpertPlacement::from_json(
      text, "dump", {.num_layers = 2, .num_experts = 4, .ep_size = 2, .num_redundant = 2});
  EXPECT_GE(balanced.replicas(0, 0).size(), 2U);  // a spare slot goes to the busiest, on either rank
  EXPECT_GE(balanced.replicas(1, 3).size(), 2U);
  EXPECT_LT(balanced.imbalance(0, std::vector<double>{100, 1, 1, 1}), 1.01);
}

TEST(ExpertDistribution, BalanceIsMaxOverMeanByLayer) {
  const parallel::ExpertPlacement place = placement();
  const ExpertDistribution distribution(&place);
  const std::vector<int64_t> counts{4, 4, 0, 0, 0, 0, 0, 0};
  const std::vector<LayerBalance> layers = distribution.balance(counts);
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].experts, 2.0);
  EXPECT_EQ(layers[0].ranks, 2.0);
  EXPECT_EQ(layers[1].experts, 1.0);  // without load
  EXPECT_EQ(layers[1].ranks, 1.0);
  EXPECT_TRUE(distribution.balance({}).empty());
}

TEST(ExpertDistribution, AModelWithoutExpertsHasNothingToTell) {
  ExpertDistribution distribution(nullptr);
  EXPECT_FALSE(distribution.has_experts());
  distribution.start({});
  EXPECT_FALSE(distribution.dump({}).has_value());
  EXPECT_TRUE(distribution.balance({}).empty());
}

}  // namespace
}  // namespace chorale::server
