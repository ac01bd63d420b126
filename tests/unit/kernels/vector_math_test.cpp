// The conversions and functions of kernels/cpu/vec.h, seen through ops whose other steps are exact.
#include <limits>

#include "kernels/ref/expert_matmul.h"
#include "kernels/rows.h"
#include "unit/kernels/attention_run.h"
#include "unit/kernels/expert_rows.h"

namespace chorale {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class VectorMathTest : public testing::TestWithParam<InstructionSet> {
 protected:
  Stream stream() const { return streams(GetParam())[0]; }
};
INSTANTIATE_TEST_SUITE_P(All, VectorMathTest, testing::ValuesIn(available_instruction_sets()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// A row of ones has mean square 1, so that its norm is the weight itself.
TestTensor stored_as(const Stream& stream, DType dtype, const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  ref::Matrix ones(1, count);
  std::fill(ones.values.begin(), ones.values.end(), 1.0F);
  const TestTensor input(DType::f32, ones);
  TestTensor out(dtype, 1, count);
  rms_norm(stream, input, vector_tensor(values), 0, out);
  return out;
}

TEST_P(VectorMathTest, StoresBf16RoundedToNearestEven) {
  Random random(1);
  for (int64_t count : {1, 2, 7, 15, 16, 17, 31, 100, 4096}) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) {
      auto bits = static_cast<uint32_t>(random());
      const uint32_t kind = static_cast<uint32_t>(random()) % 4;
      if (kind == 1) bits = (bits & 0xFFFF0000U) | 0x8000U;                      // a tie
      if (kind == 2) bits = (bits & 0xFFFF0000U) | 0x7FFFU | (bits & 1U) << 15;  // just below one
      if (kind == 3)
        bits = (bits & 0xFFFF0000U) | (0x8001U + (static_cast<uint32_t>(random()) & 1U));  // above
      values.push_back(std::bit_cast<float>(bits));
    }
    const TestTensor out = stored_as(stream(), DType::bf16, values);
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float value = values[static_cast<size_t>(i)];
      const bf16 found = out->row<bf16>(0)[i];
      // The conversion instruction of AVX512-BF16 takes subnormals for zero.
      const bool flushed = GetParam() == InstructionSet::avx512_bf16 && std::fabs(value) < 0x1p-126F;
      wrong += same_bits(found, flushed ? to_bf16(std::copysign(0.0F, value)) : to_bf16(value)) ? 0 : 1;
    }
    EXPECT_EQ(wrong, 0) << count;
  }
}

TEST_P(VectorMathTest, StoresExtremeBf16) {
  const std::vector<float> values = {
      0.0F,          -0.0F,       kInf,          -kInf,
      std::nanf(""), 0x1.fep127F, 3.4028e38F,    std::numeric_limits<float>::max(),
      -0x1.ffp127F,  0x1p-126F,   0x1.008p0F,    0x1.018p0F,
      -0x1.01p0F,    -0x1.03p0F,  0x1.fffffep0F, 1.0F};
  const TestTensor out = stored_as(stream(), DType::bf16, values);
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_TRUE(same_bits(out->row<bf16>(0)[i], to_bf16(values[i]))) << values[i];
}

TEST_P(VectorMathTest, StoresFloat32AsItIs) {
  Random random(2);
  for (int64_t count : {1, 5, 15, 16, 33}) {
    const ref::Matrix values = random_matrix(random, 1, count, DType::f32);
    const TestTensor out = stored_as(stream(), DType::f32, values.values);
    EXPECT_EQ(out.values().values, values.values);
  }
}

// One input of 1 makes gate the weight itself and up 1, so that the op is silu alone.
std::vector<float> silu_of(const Stream& stream, const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  ref::Matrix gate(count, 1);
  gate.values = values;
  ref::Matrix ones(count, 1);
  std::fill(ones.values.begin(), ones.values.end(), 1.0F);
  TestExperts experts;
  experts.add(pack_pair(gate, ones, DType::f32));
  const TestTensor x(DType::f32, row_of(ones, 0));
  const TestTensor out(DType::f32, 1, count);
  gated_matmul(stream, x, experts.view(), {}, out);
  return out.values().values;
}

// x / (1 + e^-x): exp's own error, and one rounding each of the sum and the quotient.
TEST_P(VectorMathTest, SiluIsAccurate) {
  std::vector<float> values;
  for (int i = -8700; i <= 12000; ++i) values.push_back(static_cast<float>(i) * 0.01F + 0.001F);
  for (int exponent = -125; exponent <= 6; ++exponent)
    for (float m : {1.0F, -1.0F, 1.37F, -1.37F})
      if (m > 0 || exponent < 6) values.push_back(std::ldexp(m, exponent));
  const std::vector<float> found = silu_of(stream(), values);
  double worst = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = ref::silu(double{values[i]});
    worst = std::max(worst, std::fabs(found[i] - expected) / std::fabs(expected));
  }
  EXPECT_LE(worst, kExpError + 2 * kFloatRoundoff);
}

// Below -88 exp(-x) stays at its largest value, so that silu's remainder is there no more than |x| * 2^-126.
TEST_P(VectorMathTest, SiluVanishesFarBelowZero) {
  const std::vector<float> values = {-87.5F, -88.1F, -89.0F, -100.0F, -1000.0F, -65504.0F, -1e10F};
  const std::vector<float> found = silu_of(stream(), values);
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_LE(std::fabs(found[i] - ref::silu(double{values[i]})), -values[i] * 0x1p-126) << values[i];
}

TEST_P(VectorMathTest, SiluOfWhatIsNotFiniteIsNotFinite) {
  for (float value : {std::nanf(""), kInf, -kInf})
    EXPECT_FALSE(std::isfinite(silu_of(stream(), {value})[0])) << value;
  EXPECT_EQ(silu_of(stream(), {0.0F})[0], 0.0F);
}

// A query that scores 0 with the first token and x with the second, whose values are `first` and `second`.
float attend_two(const Stream& stream, float x, float first, float second) {
  TestSequence s{ref::Matrix(2, 4), ref::Matrix(2, 4), ref::Matrix(2, 4)};
  s.q.at(1, 0) = 2 * x;  // the scale for head_dim 4 is 1/2
  s.k.at(1, 0) = 1;
  s.v.at(0, 0) = first;
  s.v.at(1, 0) = second;
  AttentionRun run(stream, DType::f32, {1, 1, 4}, {s});
  run.step({{0, 0, 2}});
  return run.out(0).values().at(1, 0);
}

// With values 0 and 1 the result is e^x / (1 + e^x), e^x being a probability of the softmax: exp's error, its
// weaker echo in the sum, and one rounding each of the sum and the quotient.
TEST_P(VectorMathTest, ExpIsAccurate) {
  double worst = 0;
  for (int i = 0; i <= 1740; ++i) {
    const float x = -0.05F * static_cast<float>(i) - 0.003F;
    const double e = std::exp(double{x});
    const double expected = e / (1 + e);
    const double echo = 1 + expected;
    worst = std::max(
        worst, (std::fabs(attend_two(stream(), x, 0, 1) - expected) / expected - 2 * kFloatRoundoff) / echo);
    const double other = std::fabs(attend_two(stream(), -x, 1, 0) - expected) / expected;
    worst = std::max(worst, (other - 2 * kFloatRoundoff) / echo);
  }
  EXPECT_LE(worst, kExpError);
}

TEST_P(VectorMathTest, ExpIsZeroFarBelowZeroAndExactAtZero) {
  EXPECT_EQ(attend_two(stream(), -88.0F, 0, 1), 0.0F);
  EXPECT_EQ(attend_two(stream(), -1e30F, 0, 1), 0.0F);
  EXPECT_EQ(attend_two(stream(), 1e30F, 1, 0), 0.0F);
  EXPECT_EQ(attend_two(stream(), 1e30F, 0, 1), 1.0F);
  EXPECT_EQ(attend_two(stream(), 0.0F, 0, 1), 0.5F);
  EXPECT_EQ(attend_two(stream(), 0.0F, 7, 7), 7.0F);
  EXPECT_TRUE(std::isnan(attend_two(stream(), std::nanf(""), 0, 1)));
}

}  // namespace
}  // namespace chorale
