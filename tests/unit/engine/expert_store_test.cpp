// Experts that a process reads while others are in use.
#include "engine/expert_store.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/weight_shard.h"
#include "parallel/expert_placement.h"
#include "parallel/strategy.h"
#include "parallel/topology.h"
#include "unit/engine/small_config.h"

namespace chorale::engine {
namespace {

constexpr int kLayers = 2;
constexpr int64_t kSlots = 5;

uint64_t wait_for(ExpertStore& store) {
  for (;;) {
    if (const auto bytes = store.fetched()) return *bytes;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Of every expert that is stored, as it is when it is read by itself. Gives the places where they lie.
void expect_right_weights(const WeightSource& source, const StoredWeights& stored,
                          std::set<const std::byte*>& places, const std::string& where) {
  for (int l = 0; l < kLayers; ++l) {
    const auto layer = static_cast<size_t>(l);
    const model::FeedForwardWeights& weights = stored.weights.layers[layer].feed_forward;
    ASSERT_EQ(weights.gate_up.size(), stored.shard.experts[layer].size()) << where;
    ASSERT_EQ(weights.down.size(), stored.shard.experts[layer].size()) << where;
    for (size_t i = 0; i < weights.gate_up.size(); ++i) {
      const int32_t expert = stored.shard.experts[layer][i];
      const model::WeightPlan plan =
          model::plan_expert(source.config, source.formats, stored.shard, l, expert);
      const Buffer alone(plan.bytes);
      source.read(plan, alone, 1);
      const size_t down = plan.places.back().offset;
      EXPECT_EQ(std::memcmp(weights.gate_up[i], alone.data(), down), 0) << where << ", expert " << expert;
      EXPECT_EQ(std::memcmp(weights.down[i], alone.data() + down, plan.bytes - down), 0)
          << where << ", expert " << expert;
      places.insert(weights.gate_up[i]);
    }
  }
}

class StoredExperts : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Strategies, StoredExperts, testing::Values("dp=4,ep=4", "tp=2,dp=2,ep=2,moe_tp=2"),
                         [](const auto& tested) {
                           return std::string(tested.index == 0 ? "whole" : "split");
                         });

TEST_P(StoredExperts, AreThoseOfTheLastPlacementAndTakeNoMoreMemory) {
  const io::ModelConfig config = small_config();
  const model::WeightFormats formats(DType::bf16);
  const WeightSource source{.config = config, .formats = formats, .seed = 3};
  const parallel::Strategy strategy = parallel::parse_strategy(GetParam());
  const auto placement =
      parallel::ExpertPlacement::trivial({.num_layers = kLayers,
                                          .num_experts = static_cast<int>(config.num_experts),
                                          .ep_size = strategy.ep_size});
  const model::WeightShard shard =
      model::storage_for(model::shard_of(config, parallel::Topology(strategy, 1), placement));
  const auto most = std::max(kSlots, std::ssize(shard.experts[0]));
  StoredWeights stored = read_weights(source, shard, 1, {});
  ExpertStore store(stored, source);
  std::set<const std::byte*> places;
  expect_right_weights(source, stored, places, "at first");

  std::mt19937_64 random(7);
  std::vector<std::vector<int32_t>> expected = shard.experts;
  uint64_t read = 0;
  for (int move = 0; move < 40; ++move) {
    const int layer = static_cast<int>(random() % kLayers);
    std::vector<int32_t> slots;
    for (int64_t s = 0; s < kSlots; ++s) slots.push_back(static_cast<int32_t>(random() % 16));
    store.fetch(layer, slots);
    expect_right_weights(source, stored, places, "while another placement is fetched");
    if (random() % 4 == 0) continue;  // nobody wants it any more
    read += wait_for(store);
    store.place();
    std::ranges::sort(slots);
    slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
    expected[static_cast<size_t>(layer)] = slots;
    ASSERT_EQ(stored.shard.experts, expected);
    expect_right_weights(source, stored, places, fmt::format("after move {}", move));
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(read, 0U);
  EXPECT_LE(std::ssize(places), kLayers * most + kSlots);
  store.fetch(0, expected[0]);  // all of them are here
  EXPECT_EQ(wait_for(store), 0U);
}

}  // namespace
}  // namespace chorale::engine
