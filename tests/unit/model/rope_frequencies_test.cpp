#include "model/rope_frequencies.h"

#include <cmath>

#include <gtest/gtest.h>

namespace chorale::model {
namespace {

io::ModelConfig config(int64_t head_dim, double theta) {
  io::ModelConfig c;
  c.head_dim = head_dim;
  c.rope_theta = theta;
  return c;
}

TEST(RopeFrequencies, ArePowersOfTheta) {
  const RopeFrequencies f = rope_frequencies(config(8, 10000));
  EXPECT_EQ(f.scale, 1.0F);
  ASSERT_EQ(f.values.size(), 4U);
  EXPECT_FLOAT_EQ(f.values[0], 1.0F);
  EXPECT_FLOAT_EQ(f.values[1], 0.1F);
  EXPECT_FLOAT_EQ(f.values[3], 0.001F);
}

TEST(RopeFrequencies, LinearScalingDividesAll) {
  io::ModelConfig c = config(8, 10000);
  c.rope_scaling.type = io::RopeScaling::Type::linear;
  c.rope_scaling.factor = 4;
  EXPECT_FLOAT_EQ(rope_frequencies(c).values[1], 0.025F);
}

// Values of transformers 5.17's _compute_yarn_parameters for dim 16, base 1e6, factor 4, original length 64.
TEST(RopeFrequencies, YarnKeepsTheFastAndDividesTheSlow) {
  io::ModelConfig c = config(16, 1e6);
  c.rope_scaling.type = io::RopeScaling::Type::yarn;
  c.rope_scaling.factor = 4;
  c.rope_scaling.original_max_position_embeddings = 64;
  const RopeFrequencies f = rope_frequencies(c);
  EXPECT_FLOAT_EQ(f.scale, static_cast<float>(0.1 * std::log(4.0) + 1));
  // beta_fast 32 gives a dimension below 0, beta_slow 1 gives ceil(1.34) = 2: a ramp over two dimensions.
  EXPECT_FLOAT_EQ(f.values[0], 1.0F);
  EXPECT_FLOAT_EQ(f.values[1], static_cast<float>(std::pow(1e6, -1.0 / 8) * (0.5 / 4 + 0.5)));
  EXPECT_FLOAT_EQ(f.values[2], static_cast<float>(std::pow(1e6, -2.0 / 8) / 4));
  EXPECT_FLOAT_EQ(f.values[7], static_cast<float>(std::pow(1e6, -7.0 / 8) / 4));
  c.rope_scaling.attention_factor = 1.5;
  EXPECT_FLOAT_EQ(rope_frequencies(c).scale, 1.5F);
}

}  // namespace
}  // namespace chorale::model
