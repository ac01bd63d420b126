#include "kernels/fixed_point.h"

#include "gpu/gpu_test.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/ref/fixed_point.h"

namespace chorale::cuda {
namespace {

constexpr int64_t kOne = int64_t{1} << 36;

TestTensor sums_tensor(const ref::Dense<int64_t>& sums) {
  TestTensor tensor(DType::i64, sums.rows, sums.columns);
  for (int64_t r = 0; r < sums.rows; ++r)
    std::copy_n(sums.values.begin() + r * sums.columns, sums.columns, tensor->row<int64_t>(r));
  return tensor;
}

// Magnitudes of every order; some rows have a count of sums that were not finite.
ref::Dense<int64_t> random_sums(Random& random, int64_t tokens, int64_t n) {
  ref::Dense<int64_t> sums(tokens, n + 1);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < n; ++c)
      sums.at(t, c) = random_int(random, -(int64_t{1} << 62), int64_t{1} << 62) >> random_int(random, 0, 61);
    sums.at(t, n) = random_int(random, 0, 3) == 0 ? random_int(random, 1, 1'000'000) : 0;
  }
  return sums;
}

TEST(GpuFixedPoint, ClearsEverySum) {
  for (int64_t columns : {1, 2, 3, 19, 511, 1024, 1025, 2049}) {
    const GpuTensor sums(DType::i64, 5, columns);  // begins as -1
    clear_sums(queue(), sums);
    for (int64_t value : to_dense<int64_t>(sums.download()).values) ASSERT_EQ(value, 0);
  }
}

// Both sides round an exact integer once and add float32 values, so equality.
TEST(GpuFixedPoint, AddsWhatTheReferenceAdds) {
  Random random(1);
  for (int64_t n : {1, 2, 7, 64, 1000, 1024, 2048, 2050}) {
    for (bool with_bias : {false, true}) {
      const int64_t tokens = random_int(random, 1, 40);
      const ref::Dense<int64_t> sums = random_sums(random, tokens, n);
      const ref::Matrix bias = with_bias ? random_matrix(random, 1, n, DType::f32) : ref::Matrix();
      ref::Matrix expected = random_matrix(random, tokens, n, DType::f32);
      const GpuTensor residual(DType::f32, expected);
      const GpuTensor bias_tensor(DType::f32, bias);
      add_sums(queue(), GpuTensor(sums_tensor(sums)), with_bias ? Tensor(bias_tensor) : Tensor(), residual);
      ref::add_sums(sums, bias, expected);
      expect_same_bits(residual.download(), TestTensor(DType::f32, expected));
    }
  }
}

TEST(GpuFixedPoint, RoundsASumOnce) {
  struct Case {
    int64_t sum;
    float value;
  };
  const Case cases[] = {
      {0, 0.0F},
      {1, 0x1p-36F},
      {-1, -0x1p-36F},
      {-3 * kOne / 2, -1.5F},
      {(1 << 24) + 1, 0x1p-12F},             // a tie, to even
      {(1 << 24) + 3, 0x1p-12F + 0x1p-34F},  // a tie, to even
      // Just above the tie: rounding to float64 on the way would make it the tie, and round it down.
      {(int64_t{1} << 54) + (int64_t{1} << 30) + 1, 0x1.000002p18F},
      {-(int64_t{1} << 54) - (int64_t{1} << 30) - 1, -0x1.000002p18F},
      {(int64_t{1} << 62) - 1, 0x1p26F}};
  for (const Case& c : cases) {
    ref::Dense<int64_t> sums(1, 2);
    sums.at(0, 0) = c.sum;
    const GpuTensor residual(DType::f32, ref::Matrix(1, 1));
    add_sums(queue(), GpuTensor(sums_tensor(sums)), {}, residual);
    EXPECT_EQ(residual.values().at(0, 0), c.value) << c.sum;
  }
}

TEST(GpuFixedPoint, NoTokensIsNoWork) {
  const GpuTensor sums(DType::i64, 0, 9);
  const GpuTensor residual(DType::f32, 0, 8);
  clear_sums(queue(), sums);
  add_sums(queue(), sums, {}, residual);
  queue().synchronize();
}

}  // namespace
}  // namespace chorale::cuda
