#include "tools/compare/expert_balance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/model_config.h"
#include "source_dir.h"

namespace chorale::tools {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

TEST(ExpertBalance, IsOfTheBusiestRankOverTheMean) {
  const auto balance = expert_balance({{10, 10}, {0, 0}, {30, 10}, {11, 9}});
  ASSERT_TRUE(balance.has_value());
  EXPECT_DOUBLE_EQ(balance->worst, 1.5);
  EXPECT_EQ(balance->worst_layer, 2);
  EXPECT_DOUBLE_EQ(balance->mean, (1 + 1.5 + 1.1) / 3);  // a layer without experts does not count
  EXPECT_FALSE(expert_balance({{0, 0}}).has_value());
  EXPECT_FALSE(expert_balance({}).has_value());
}

// The bundled model's: 6 layers of 16 experts.
class ExpertRows : public ::testing::Test {
 protected:
  engine::ParallelPlan plan(const parallel::Strategy& s) {
    options_.strategy = {s.tp_size, s.dp_size, s.ep_size, s.moe_tp_size, s.moe_dp_size, {}, false, false};
    return engine::plan_parallel(config_, options_, {.max_tokens = 8, .max_segments = 2},
                                 std::vector<int>(static_cast<size_t>(s.world()), 0));
  }
  void add(size_t rank, size_t layer, size_t expert, int64_t count) {
    load_.resize(std::max(load_.size(), rank + 1));
    load_[rank].resize(6 * 16);
    load_[rank][layer * 16 + expert] += count;
  }
  std::vector<std::vector<double>> rows(const parallel::Strategy& s) {
    load_.resize(static_cast<size_t>(s.world()), std::vector<int64_t>(6 * 16));
    for (auto& load : load_) load.resize(6 * 16);
    return expert_rows(plan(s), load_, 16);
  }

  io::ModelConfig config_ = io::load_model_config(source_dir() / "models/tales-moe");
  engine::ParallelOptions options_;
  std::vector<std::vector<int64_t>> load_;
};

TEST_F(ExpertRows, AreTheOwners) {
  add(0, 2, 0, 10);  // its own
  add(0, 2, 8, 3);   // of rank 1
  add(1, 2, 7, 5);   // of rank 0
  const auto r = rows({.tp_size = 2, .ep_size = 2});
  ASSERT_EQ(r.size(), 6U);
  EXPECT_THAT(r[2], ElementsAre(15, 3));
  EXPECT_THAT(r[1], Each(0));
}

TEST_F(ExpertRows, OfASplitExpertAreOnAllItsRanks) {
  add(1, 0, 15, 4);
  EXPECT_THAT(rows({.tp_size = 4, .moe_tp_size = 4})[0], ElementsAre(4, 4, 4, 4));
  EXPECT_THAT(rows({.tp_size = 4, .ep_size = 2, .moe_tp_size = 2})[0], ElementsAre(0, 0, 4, 4));
}

TEST_F(ExpertRows, StayInTheirReplica) {
  add(0, 0, 15, 4);
  add(3, 0, 0, 5);
  EXPECT_THAT(rows({.tp_size = 2, .dp_size = 2, .ep_size = 2, .moe_dp_size = 2})[0], ElementsAre(0, 4, 5, 0));
  EXPECT_THAT(rows({.dp_size = 4, .moe_dp_size = 4})[0], ElementsAre(4, 0, 0, 5));
}

TEST_F(ExpertRows, OfReplicasThatTakeTurnsAreShared) {
  options_.num_redundant_experts = 2;  // experts 0 and 1 are on both ranks
  options_.dispatch_algorithm = "dynamic";
  add(0, 0, 0, 10);
  add(0, 0, 15, 1);
  EXPECT_THAT(rows({.tp_size = 2, .ep_size = 2})[0], ElementsAre(5, 6));
  options_.dispatch_algorithm = "static";
  EXPECT_THAT(rows({.tp_size = 2, .ep_size = 2})[0], ElementsAre(10, 1));
}

}  // namespace
}  // namespace chorale::tools
