#include "kernels/ref/tensor_core.h"

#include "kernels/ref/matmul.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

float add(float accumulator, std::vector<float> a, std::vector<float> b) {
  return ref::tensor_core_add(accumulator, a, b);
}

TEST(TensorCoreReference, SmallIntegersAreExact) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const auto count = static_cast<size_t>(random_int(random, 1, 16));
    std::vector<float> a(count), b(count);
    int64_t sum = random_int(random, -1000, 1000);
    const auto start = static_cast<float>(sum);
    for (size_t i = 0; i < count; ++i) {
      const int64_t x = random_int(random, -100, 100), y = random_int(random, -100, 100);
      a[i] = static_cast<float>(x);
      b[i] = static_cast<float>(y);
      sum += x * y;
    }
    EXPECT_EQ(add(start, a, b), static_cast<float>(sum));
  }
}

TEST(TensorCoreReference, TermsAreCutAt25BitsBelowTheLargest) {
  // Beside 1, sixteen terms of 2^-25 are kept, those of 2^-26 are cut one by one.
  const std::vector<float> small(16, 0x1p-13F);
  EXPECT_EQ(add(1, small, std::vector<float>(16, 0x1p-12F)), 1 + 0x1p-21F);
  EXPECT_EQ(add(1, small, std::vector<float>(16, 0x1p-13F)), 1);
  // Toward zero, also below.
  EXPECT_EQ(add(-1, small, std::vector<float>(16, 0x1p-13F)), -1);
  EXPECT_EQ(add(-1, small, std::vector<float>(16, -0x1p-12F)), -1 - 0x1p-21F);
}

TEST(TensorCoreReference, TheSumIsRoundedTowardZero) {
  // 1 + 3 * 2^-25 lies nearer to 1 + 2^-23 than to 1.
  EXPECT_EQ(add(1, {0x1.8p-24F}, {1}), 1);
  EXPECT_EQ(add(-1, {-0x1.8p-24F}, {1}), -1);
  // A product of 1.5 * 1.5 has exponent 0 and stands above 2: it is aligned to exponent 0.
  EXPECT_EQ(add(0, {1.5F, 0x1p-24F}, {1.5F, 0x1p-1F}), 2.25F);
}

TEST(TensorCoreReference, OneChainOfBlocksDiffersFromTwoHalves) {
  Random random(2);
  const ref::Matrix x = random_matrix(random, 1, 256, DType::bf16),
                    w = random_matrix(random, 64, 256, DType::bf16);
  int differing_sums = 0;
  for (int64_t n = 0; n < w.rows; ++n) {
    const float whole = ref::tensor_core_dot(x, 0, w, n, 0, 256);
    const float halves =
        ref::tensor_core_dot(x, 0, w, n, 0, 128) + ref::tensor_core_dot(x, 0, w, n, 128, 256);
    differing_sums += whole != halves ? 1 : 0;
  }
  EXPECT_GT(differing_sums, 16);
}

TEST(TensorCoreReference, IsCloseToTheExactProduct) {
  Random random(3);
  for (int64_t k : {1, 15, 16, 17, 100, 768}) {
    const ref::Matrix x = random_matrix(random, 3, k, DType::bf16),
                      w = random_matrix(random, 20, k, DType::bf16);
    ref::Dense<double> bound = ref::matmul(absolute(x), absolute(w));
    // Each block may cut 17 terms and the sum, at 2^-24 of what has been added up.
    for (double& value : bound.values) value *= 18 * static_cast<double>(k / 16 + 1) * 0x1p-24;
    expect_within(ref::tensor_core_matmul(x, w), ref::matmul(x, w), bound);
  }
}

TEST(TensorCoreReference, NotANumberAndInfinityPass) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(add(0, {std::nanf("")}, {1})));
  EXPECT_TRUE(std::isnan(add(0, {infinity}, {0})));
  EXPECT_EQ(add(1, {infinity}, {2}), infinity);
}

}  // namespace
}  // namespace chorale
