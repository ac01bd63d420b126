#include "tools/prune/merged_expert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/float16.h"
#include "unit/io/test_files.h"
#include "unit/tools/prune/small_model.h"

namespace chorale::tools {
namespace {

template <typename T>
std::vector<T> values_of(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// The bfloat16 number nearest to x, even at a tie, found by looking at the neighbours.
bf16 nearest_bf16(double x) {
  bf16 best = to_bf16(static_cast<float>(x));
  for (int step = -1; step <= 1; ++step) {
    const bf16 other{static_cast<uint16_t>(to_bf16(static_cast<float>(x)).bits + step)};
    const double distance = std::abs(double{to_float(other)} - x);
    const double best_distance = std::abs(double{to_float(best)} - x);
    if (distance < best_distance || (distance == best_distance && other.bits % 2 == 0)) best = other;
  }
  return best;
}

TEST(Encode, RoundsOnce) {
  // Just above the middle of two bfloat16 numbers: rounded to float32 first, it would be the middle, and then
  // go down to the even one.
  const std::vector<double> hard = {1 + 0x1p-8 + 0x1p-40, -(1 + 0x1p-8 + 0x1p-40), 1 + 0x1p-8,
                                    1 + 0x3p-8 - 0x1p-40};
  const auto encoded = values_of<bf16>(encode(hard, DType::bf16));
  EXPECT_EQ(to_float(encoded[0]), 1 + 0x1p-7F);
  EXPECT_EQ(to_float(encoded[1]), -(1 + 0x1p-7F));
  EXPECT_EQ(to_float(encoded[2]), 1.0F);
  EXPECT_EQ(to_float(encoded[3]), 1 + 0x1p-7F);
  const std::vector<double> hard_f16 = {1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-11};
  const auto halves = values_of<f16>(encode(hard_f16, DType::f16));
  EXPECT_EQ(to_float(halves[0]), 1 + 0x1p-10F);
  EXPECT_EQ(to_float(halves[1]), 1.0F);

  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  std::vector<double> many(100'000);
  for (size_t i = 0; i < many.size(); ++i) {
    many[i] = normal(random) * std::exp2(static_cast<double>(random() % 60) - 30);
    if (i % 2 == 0)  // near the middle of two
      many[i] = double{std::bit_cast<float>(
                    (std::bit_cast<uint32_t>(static_cast<float>(many[i])) & 0xFFFF0000U) | 0x8000U)} *
                (1 + normal(random) * 0x1p-45);
  }
  const auto rounded = values_of<bf16>(encode(many, DType::bf16));
  for (size_t i = 0; i < many.size(); ++i) ASSERT_EQ(rounded[i], nearest_bf16(many[i])) << many[i];
}

TEST(Encode, KeepsFloatsAndWhatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> floats = {0.0F, -0.0F, 1.5F, 3e38F, 1e-45F, infinity, -infinity};
  EXPECT_EQ(values_of<float>(encode(floats, DType::f32)), floats);
  for (size_t i = 0; i < floats.size(); ++i) {
    EXPECT_EQ(values_of<bf16>(encode(floats, DType::bf16))[i], to_bf16(floats[i]));
    EXPECT_EQ(values_of<f16>(encode(floats, DType::f16))[i], to_f16(floats[i]));
  }
  const std::vector<double> odd = {std::nan(""), 1e300, -1e300, 1e-300};
  const auto encoded = values_of<bf16>(encode(odd, DType::bf16));
  EXPECT_TRUE(std::isnan(to_float(encoded[0])));
  EXPECT_EQ(to_float(encoded[1]), infinity);
  EXPECT_EQ(to_float(encoded[2]), -infinity);
  EXPECT_EQ(to_float(encoded[3]), 0.0F);
}

// The mean, from the definition.
std::vector<double> mean_of(const io::Checkpoint& source, const std::vector<std::string>& names,
                            std::span<const int64_t> tokens) {
  double total = 0;
  for (const int64_t count : tokens) total += static_cast<double>(count);
  std::vector<double> mean;
  for (size_t e = 0; e < names.size(); ++e) {
    const auto values = values_of<float>(source.find(names[e])->bytes);
    mean.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      mean[i] += values[i] * (total == 0 ? 1.0 / static_cast<double>(tokens.size())
                                         : static_cast<double>(tokens[e]) / total);
  }
  return mean;
}

TEST(AverageExperts, IsTheMeanWeightedByTokens) {
  const io::TemporaryFolder folder;
  const SmallModel model{.experts = 3, .dense = {1}, .dtype = DType::f32, .router_dtype = DType::f32};
  model.write(folder.path());
  const io::Checkpoint source = io::Checkpoint::open(folder.path());
  const io::ModelConfig config = io::load_model_config(folder.path());
  const std::vector<ExpertScores> scores = {{.tokens = {3, 0, 5}}, {}, {.tokens = {0, 0, 0}}};
  const MergedExperts merged = average_experts(source, config, scores);
  EXPECT_EQ(merged.width, config.moe_intermediate_size);
  EXPECT_EQ(merged.dtype, DType::f32);
  for (const int64_t layer : {0, 2}) {
    const std::vector<int64_t>& tokens = scores[static_cast<size_t>(layer)].tokens;
    const MergedExpert expert = merged.make(layer);
    const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
    const auto expect_mean = [&](std::span<const std::byte> actual, const std::string& part) {
      std::vector<std::string> names;
      for (int e = 0; e < 3; ++e) names.push_back(fmt::format("{}experts.{}.{}.weight", mlp, e, part));
      const std::vector<double> mean = mean_of(source, names, tokens);
      const auto values = values_of<float>(actual);
      ASSERT_EQ(values.size(), mean.size());
      for (size_t i = 0; i < mean.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(mean[i]));
    };
    expect_mean(expert.gate, "gate_proj");
    expect_mean(expert.up, "up_proj");
    expect_mean(expert.down, "down_proj");
    const auto router = values_of<float>(source.find(mlp + "gate.weight")->bytes);
    const auto row = values_of<float>(expert.router);
    ASSERT_EQ(row.size(), 8U);
    for (size_t i = 0; i < row.size(); ++i) {
      const double mean = layer == 0 ? router[i] * (3.0 / 8) + router[16 + i] * (5.0 / 8)
                                     : (double{router[i]} + router[8 + i] + router[16 + i]) / 3;
      EXPECT_NEAR(row[i], mean, 1e-7);
    }
  }
}

TEST(AverageExperts, OfOneUsedExpertIsThatExpertInItsOwnType) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    const io::TemporaryFolder folder;
    const SmallModel model{.layers = 1, .experts = 3, .dtype = dtype, .router_dtype = dtype};
    model.write(folder.path());
    const io::Checkpoint source = io::Checkpoint::open(folder.path());
    const io::ModelConfig config = io::load_model_config(folder.path());
    EXPECT_EQ(expert_dtype(source, config), dtype);
    const std::vector<ExpertScores> scores = {{.tokens = {0, 7, 0}}};
    const MergedExpert expert = average_experts(source, config, scores).make(0);
    const auto expect_same = [&](std::span<const std::byte> actual, const std::string& part) {
      const auto expected = source.find("model.layers.0.mlp.experts.1." + part + ".weight")->bytes;
      EXPECT_TRUE(std::ranges::equal(actual, expected)) << part;
    };
    expect_same(expert.gate, "gate_proj");
    expect_same(expert.up, "up_proj");
    expect_same(expert.down, "down_proj");
    const auto router = source.find("model.layers.0.mlp.gate.weight")->bytes;
    EXPECT_TRUE(std::ranges::equal(expert.router, router.subspan(router.size() / 3, router.size() / 3)));
  }
}

}  // namespace
}  // namespace chorale::tools
