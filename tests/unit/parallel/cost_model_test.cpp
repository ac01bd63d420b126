// What must hold of costs, whatever the figures.
#include "parallel/cost_model.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/parallel/error_text.h"
#include "unit/parallel/example_machines.h"
#include "unit/parallel/random_draw.h"

namespace chorale::parallel {
namespace {

double total(const MachineProfile& machine, const ModelShape& model, const Strategy& strategy,
             const StepLoad& load) {
  return example_cost(machine, model, strategy).step(load).total();
}

StepLoad random_load(RandomDraw& draw, const Strategy& strategy) {
  StepLoad load;
  for (int g = 0; g < strategy.dp_size; ++g) {
    const int64_t sequences = draw.between(0, 40);
    const int64_t tokens = sequences * draw.one_of({1, 1, 1, 7, 64});
    load.groups.push_back({tokens, sequences, tokens * draw.between(1, 900), sequences});
  }
  return load;
}

TEST(CostModelTest, EveryStrategyThatWorksIsListedOnceAndNoOther) {
  const ShardedSizes sizes = example_model().sharded_sizes();
  for (const int world : {1, 2, 6, 8, 16}) {
    std::set<std::string> expected;
    for (int tp = 1; tp <= world; ++tp)
      for (int ep = 1; ep <= world; ++ep)
        for (int moe_tp = 1; moe_tp <= world; ++moe_tp) {
          const Strategy strategy{tp, world / tp, ep, moe_tp, world / ep / moe_tp};
          if (strategy.world() != world || strategy.moe_dp_size < 1) continue;
          if (error_text([&] { check_strategy(strategy, sizes); }).empty())
            expected.insert(to_string(strategy));
        }
    const std::vector<Strategy> all = all_strategies(world, sizes);
    std::set<std::string> found;
    for (const Strategy& strategy : all) found.insert(to_string(strategy));
    EXPECT_EQ(found, expected) << world;
    EXPECT_EQ(found.size(), all.size()) << world;
  }
  EXPECT_NE(error_text([&] { all_strategies(0, sizes); }), "");
  EXPECT_NE(error_text([&] { all_strategies(1025, sizes); }), "");
}

TEST(CostModelTest, ACopyOutlivesItsOriginal) {
  const Strategy strategy{.tp_size = 2, .moe_tp_size = 2};
  auto original = std::make_unique<CostModel>(example_cost(example_cpu(), example_model(), strategy));
  const StepLoad load{{{.tokens = 40, .sequences = 8, .attended_tokens = 4000, .logits_rows = 8}}};
  const double expected = original->step(load).total();
  const CostModel copy = *original;
  original->set_expert_share(std::vector<double>(static_cast<size_t>(example_model().experts), 1.0));
  *original = example_cost(example_gpus(), example_model(), strategy);
  EXPECT_EQ(copy.step(load).total(), expected);
  original.reset();
  EXPECT_EQ(copy.step(load).total(), expected);
}

TEST(CostModelTest, WithoutExpertsTheOnlyStrategiesAreThoseOfAttention) {
  const ShardedSizes sizes{.vocab = 4096, .query_heads = 8, .kv_heads = 4, .intermediate = 512};
  std::vector<std::string> found;
  for (const Strategy& strategy : all_strategies(4, sizes)) found.push_back(to_string(strategy));
  EXPECT_EQ(found,
            (std::vector<std::string>{"tp=1,dp=4,ep=1,moe_tp=1,moe_dp=4", "tp=2,dp=2,ep=1,moe_tp=1,moe_dp=4",
                                      "tp=4,dp=1,ep=1,moe_tp=1,moe_dp=4"}));
}

TEST(CostModelTest, NoPartIsNegativeAndPartsAddUp) {
  RandomDraw draw(1);
  for (const MachineProfile& machine : {example_cpu(), example_cpu(16), example_gpus()})
    for (const Strategy& strategy : all_strategies(8, example_model().sharded_sizes())) {
      const StepCost cost =
          example_cost(machine, example_model(), strategy).step(random_load(draw, strategy));
      double sum = 0;
      for (const double seconds : cost.seconds) {
        EXPECT_GE(seconds, 0) << to_string(strategy);
        sum += seconds;
      }
      EXPECT_EQ(cost.total(), sum);
    }
}

TEST(CostModelTest, MoreWorkIsNeverCheaper) {
  RandomDraw draw(2);
  for (const MachineProfile& machine : {example_cpu(), example_gpus()})
    for (const Strategy& strategy : all_strategies(8, example_model().sharded_sizes())) {
      const StepLoad load = random_load(draw, strategy);
      const double before = total(machine, example_model(), strategy, load);
      StepLoad more = load;
      for (GroupLoad& group : more.groups) group.attended_tokens *= 2;
      EXPECT_GE(total(machine, example_model(), strategy, more), before) << to_string(strategy);
      for (GroupLoad& group : more.groups) group.logits_rows += 3;
      EXPECT_GE(total(machine, example_model(), strategy, more), before) << to_string(strategy);
      for (GroupLoad& group : more.groups) group.tokens += 50, group.sequences += 50;
      EXPECT_GE(total(machine, example_model(), strategy, more), before) << to_string(strategy);
      ModelShape wider = example_model();
      wider.linear_bytes = 4;
      EXPECT_GE(total(machine, wider, strategy, load), before) << to_string(strategy);
      wider = example_model();
      wider.kv_bytes = 8;
      EXPECT_GE(total(machine, wider, strategy, load), before) << to_string(strategy);
    }
}

TEST(CostModelTest, SlowerMachinesAreNeverFaster) {
  RandomDraw draw(3);
  for (const Strategy& strategy : all_strategies(8, example_model().sharded_sizes())) {
    const StepLoad load = random_load(draw, strategy);
    const MachineProfile machine = example_cpu();
    const double before = total(machine, example_model(), strategy, load);
    const size_t curves = named_curves(machine).size();
    for (size_t i = 0; i < curves; ++i) {
      MachineProfile slower = machine;
      const auto [name, curve] = named_curves(slower)[i];
      const bool is_time = name.ends_with("latency") || name.ends_with("overhead");
      for (auto& point : curve->points) point.second *= is_time ? 3 : 0.3;
      EXPECT_GE(total(slower, example_model(), strategy, load), before) << to_string(strategy) << name;
    }
  }
}

TEST(CostModelTest, OneRankHasNoCollectives) {
  const StepCost cost = example_cost(example_cpu(), example_model(), {}).step(decode_load(1, 64, 100));
  for (const CostPart part : {CostPart::all_gather, CostPart::reduce_scatter, CostPart::dispatch,
                              CostPart::combine, CostPart::logits, CostPart::imbalance})
    EXPECT_EQ(cost[part], 0) << name_of(part);
}

TEST(CostModelTest, ReplicasMoveNothing) {
  const Strategy strategy{.dp_size = 8, .moe_dp_size = 8};
  const CostModel cost = example_cost(example_gpus(), example_model(), strategy);
  EXPECT_FALSE(cost.tokens_travel());
  const StepCost step = cost.step(decode_load(8, 8, 100));
  EXPECT_EQ(step[CostPart::dispatch] + step[CostPart::all_gather] + step[CostPart::logits], 0);
}

// The same step by the same cores: splitting adds what collectives cost and never makes more cores of them.
TEST(CostModelTest, RanksOnCpusShareTheCores) {
  const StepLoad whole = decode_load(1, 64, 100);
  const double one = example_cost(example_cpu(), example_model(), {}).step(whole)[CostPart::products];
  const Strategy split{.tp_size = 8, .moe_tp_size = 8};
  const CostModel cost = example_cost(example_cpu(), example_model(), split);
  EXPECT_EQ(cost.threads_per_rank(), 1);
  EXPECT_GE(cost.step(whole)[CostPart::products], 0.99 * one);
  const StepCost on_gpus = example_cost(example_gpus(), example_model(), split).step(whole);
  const StepCost on_one = example_cost(example_gpus(), example_model(), {}).step(whole);
  EXPECT_LT(on_gpus[CostPart::products], 0.3 * on_one[CostPart::products]);
}

TEST(CostModelTest, TheSlowestGroupSetsThePaceOfDevicesOfTheirOwn) {
  const Strategy strategy{.dp_size = 2, .moe_dp_size = 2};
  const CostModel cost = example_cost(example_gpus(), example_model(), strategy);
  StepLoad uneven = decode_load(2, 128, 100);
  const StepCost even = cost.step(uneven);
  uneven.groups[1] = {};
  const StepCost alone = cost.step(uneven);
  EXPECT_GT(alone[CostPart::imbalance], 0);
  // The engine's own work is by rows.
  EXPECT_NEAR(alone.total() - alone[CostPart::overhead], even.total() - even[CostPart::overhead],
              1e-9 * even.total());
}

TEST(CostModelTest, ABusyExpertMakesItsRankTheSlowest) {
  const Strategy strategy{.dp_size = 8, .ep_size = 8};
  CostModel cost = example_cost(example_gpus(), example_large_model(), strategy);
  const StepLoad load = decode_load(8, 32, 100);
  EXPECT_EQ(cost.expert_imbalance(), 1);
  const double even = cost.step(load).total();
  std::vector<double> share(128, 1.0);
  share[3] = 64;
  cost.set_expert_share(share);
  EXPECT_GT(cost.expert_imbalance(), 2);
  EXPECT_GT(cost.step(load)[CostPart::imbalance], 0);
  EXPECT_GT(cost.step(load).total(), even);
  EXPECT_NE(error_text([&] { cost.set_expert_share(std::vector<double>(3, 1.0)); }), "");
  share[3] = -1;
  EXPECT_NE(error_text([&] { cost.set_expert_share(share); }), "");
}

TEST(CostModelTest, GroupsOfSeveralNodesUseTheLinksBetweenThem) {
  const Strategy strategy{.tp_size = 4, .dp_size = 4, .ep_size = 16};
  const StepLoad load = decode_load(4, 16, 100);
  const MachineProfile machine = example_gpus(8);
  MachineProfile slower = machine;
  for (CollectiveCost& cost : slower.across) cost.latency.points[0].second *= 10;
  for (CollectiveCost& cost : slower.across) cost.latency.points[1].second *= 10;
  const StepCost before = example_cost(machine, example_model(), strategy).step(load);
  const StepCost after = example_cost(slower, example_model(), strategy).step(load);
  EXPECT_EQ(after[CostPart::all_gather], before[CostPart::all_gather]);
  EXPECT_GT(after[CostPart::dispatch], before[CostPart::dispatch]);
  MachineProfile one_node = machine;
  one_node.across = {};
  EXPECT_NE(error_text([&] { example_cost(one_node, example_model(), strategy); }).find("several nodes"),
            std::string::npos);
}

TEST(CostModelTest, MemoryIsSharedOutAsTheStrategySays) {
  const ModelShape model = example_model();
  const double whole = example_cost(example_cpu(), model, {}).weight_bytes_per_rank();
  const double per_layer = 2.0 * (12 * 64 * 256 * 2 + 16 * 3 * 128 * 256 + 16 * 256);
  EXPECT_DOUBLE_EQ(whole, 6 * per_layer + 4096 * 256 * 4.0);
  const CostModel tp = example_cost(example_cpu(), model, {.tp_size = 8, .moe_tp_size = 8});
  EXPECT_EQ(tp.kv_bytes_per_token(), 6 * 2 * 64 * 2);  // one of four heads, twice
  EXPECT_EQ(tp.kv_capacity(6 * 2 * 64 * 2 * 10 + 5), 10);
  EXPECT_LT(tp.weight_bytes_per_rank(), whole / 6);
}

TEST(CurveTest, IsStraightInTheLogarithmsAndKeepsItsEnds) {
  const Curve curve{{{1, 10}, {4, 40}, {16, 10}}, "round"};
  EXPECT_EQ(curve.at(0.5), 10);
  EXPECT_NEAR(curve.at(2), 20, 1e-12);
  EXPECT_EQ(curve.at(4), 40);
  EXPECT_NEAR(curve.at(8), 20, 1e-12);
  EXPECT_EQ(curve.at(1e9), 10);
  const CurveTable table(curve, 2);
  EXPECT_EQ(table.at(0), 0.2);
  EXPECT_DOUBLE_EQ(table.at(4), 0.05);
  EXPECT_DOUBLE_EQ(table.at(1e12), 0.2);
}

TEST(MachineProfileTest, FaultsNameTheField) {
  EXPECT_EQ(error_text([] { check_profile(example_cpu()); }), "");
  MachineProfile machine = example_cpu();
  machine.products[1].points.clear();
  EXPECT_NE(error_text([&] { check_profile(machine); }).find("products.gated"), std::string::npos);
  machine = example_cpu();
  machine.sampling.source.clear();
  EXPECT_NE(error_text([&] { check_profile(machine); }).find("sampling"), std::string::npos);
  machine = example_cpu();
  machine.within[2].latency.points[0].second = 0;
  EXPECT_NE(error_text([&] { check_profile(machine); }).find("within.all_to_all.latency"), std::string::npos);
  machine = example_cpu();
  machine.attention.points = {{2, 1}, {2, 1}};
  EXPECT_NE(error_text([&] { check_profile(machine); }).find("attention"), std::string::npos);
}

}  // namespace
}  // namespace chorale::parallel
