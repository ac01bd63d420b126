#include "tools/compare_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/model_config.h"
#include "tools/compare.h"

namespace chorale::tools {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// The expected values are numpy.percentile's.
TEST(Percentile, IsInterpolated) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(percentile(values, 50), 3);
  EXPECT_DOUBLE_EQ(percentile(values, 75), 5);
  EXPECT_DOUBLE_EQ(percentile(values, 99), 7.88);
  EXPECT_DOUBLE_EQ(percentile(values, 100), 8);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
}

TEST(Summary, OfValuesInAnyOrder) {
  const auto d = summarize({8, 1, 4, 2});
  ASSERT_TRUE(d.has_value());
  EXPECT_DOUBLE_EQ(d->mean, 3.75);
  EXPECT_DOUBLE_EQ(d->median, 3);
  EXPECT_DOUBLE_EQ(d->p99, 7.88);
  EXPECT_FALSE(summarize({}).has_value());
}

TEST(Times, ComeFromTheRequests) {
  const auto request = [](double submitted, std::vector<double> times) {
    ServedRequest served;
    served.submitted = submitted;
    served.token_times = std::move(times);
    return served;
  };
  const std::vector<ServedRequest> served = {request(1, {2, 2.5, 3}), request(1.5, {3.5, 5})};
  Measurement m;
  m.prompt_tokens = 50;
  measure_times(served, m);
  EXPECT_DOUBLE_EQ(m.first_token->mean, 1.5);  // 1 and 2
  EXPECT_DOUBLE_EQ(m.between->mean, (0.5 + 0.5 + 1.5) / 3);
  EXPECT_DOUBLE_EQ(m.between->median, 0.5);
  EXPECT_DOUBLE_EQ(m.seconds, 4);
  EXPECT_DOUBLE_EQ(m.prompt_rate, 50 / 2.5);  // the last first token comes at 3.5
  EXPECT_DOUBLE_EQ(m.output_rate, 5 / 4.0);
  EXPECT_EQ(m.output_tokens, 5);
  EXPECT_EQ(m.computed_tokens, 53);  // the last token of each sequence is not computed
}

TEST(Times, OfOneTokenEachHaveNoLatencyBetween) {
  ServedRequest served;
  served.token_times = {1};
  Measurement m;
  measure_times({&served, 1}, m);
  EXPECT_FALSE(m.between.has_value());
  EXPECT_TRUE(m.first_token.has_value());
}

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
    return engine::plan_parallel(config_, options_, {.max_tokens = 8, .max_chunks = 2},
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

  io::ModelConfig config_ = io::load_model_config(CHORALE_SOURCE_DIR "/models/tales-moe");
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
