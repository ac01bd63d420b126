#include "tools/bench/floor.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "model/weight_shard.h"
#include "tools/bench/presets.h"

namespace chorale::bench {
namespace {

WeightBytes bytes_of(const io::ModelConfig& config) {
  return weight_bytes(config, model::plan_weights(config, DType::bf16, model::whole_model(config)));
}

TEST(BenchPresets, HaveTheSizesThatTheirNamesPromise) {
  const auto parameters = [](const io::ModelConfig& c) {
    const WeightBytes b = bytes_of(c);
    const double embedding = static_cast<double>(c.vocab_size * c.hidden_size);
    return (b.layers + b.per_expert * static_cast<double>(c.num_experts * c.num_hidden_layers) + b.head) / 2 +
           embedding;
  };
  EXPECT_NEAR(parameters(preset("qwen3-30b-a3b")) / 1e9, 30.5, 0.1);
  EXPECT_NEAR(parameters(preset("qwen3-30b-a3b-1e")) / 1e9, 1.75, 0.01);
  EXPECT_NEAR(parameters(preset("qwen3-235b-a22b")) / 1e9, 235, 0.3);
  EXPECT_EQ(preset("qwen3-30b-a3b-12l-8e2").num_hidden_layers, 12);
  EXPECT_EQ(preset("qwen3-30b-a3b-6l").num_experts, 128);
}

TEST(BenchPresets, AnUnknownOneIsRefusedWithThoseThereAre) {
  try {
    preset("qwen4");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("qwen3-30b-a3b-1e"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("\"qwen4\""), std::string::npos) << error.what();
  }
}

TEST(BenchFloor, ADecodeStepReadsEachWeightOnce) {
  const io::ModelConfig c = preset("qwen3-30b-a3b-1e");
  const WeightBytes weights = bytes_of(c);
  const double experts = 48 * 3.0 * 768 * 2048 * 2;
  const double attention = 48 * (2.0 * 4096 + 2 * 512) * 2048 * 2;
  const double norms = 48 * (2.0 * 2048 + 2 * 128) * 4;
  EXPECT_DOUBLE_EQ(weights.per_expert * 48, experts);
  EXPECT_DOUBLE_EQ(weights.layers, attention + norms);  // the router of one expert is never read
  const OpWork work = step_floor(c, weights, DType::bf16, {.first_position = 511, .touched_experts = 48});
  const double cache = 48 * 512.0 * 2 * 512 * 2;
  EXPECT_DOUBLE_EQ(work.bytes, weights.layers + experts + weights.head + cache);
  const OpWork int8 = step_floor(c, weights, DType::i8, {.first_position = 511, .touched_experts = 48});
  EXPECT_DOUBLE_EQ(int8.bytes, work.bytes - cache + 48 * 512.0 * 2 * 4 * (128 + 4));
  const double products = (attention + experts) / 2 + 151936.0 * 2048;
  EXPECT_DOUBLE_EQ(work.operations, 2 * products + 4 * 48 * 512.0 * 32 * 128);
}

TEST(BenchFloor, APromptComputesItsTriangleAndOneRowOfLogits) {
  const io::ModelConfig c = preset("qwen3-30b-a3b-6l");
  const OpWork one = step_floor(c, bytes_of(c), DType::bf16, {.tokens_each = 1, .logits_rows = 0});
  const OpWork prompt = step_floor(c, bytes_of(c), DType::bf16, {.tokens_each = 100, .logits_rows = 0});
  const double pairs = 4.0 * 6 * 32 * 128;  // operations of one query and one key
  EXPECT_DOUBLE_EQ(prompt.operations, 100 * (one.operations - pairs) + pairs * 100 * 101 / 2);
  const double layer = 2.0 * 36 * 128 * 2048 + 8 * 3 * 768 * 2048 + 128 * 2048;
  EXPECT_DOUBLE_EQ(one.operations - pairs, 2 * 6 * layer);
}

TEST(BenchFloor, TheSlowerOfReadingAndComputingCounts) {
  const Ceilings ceilings{10, 100};
  EXPECT_DOUBLE_EQ(floor_seconds({50, 200}, ceilings), 5);
  EXPECT_TRUE(is_bound_by_memory({50, 200}, ceilings));
  EXPECT_DOUBLE_EQ(floor_seconds({10, 200}, ceilings), 2);
  EXPECT_FALSE(is_bound_by_memory({10, 200}, ceilings));
}

}  // namespace
}  // namespace chorale::bench
