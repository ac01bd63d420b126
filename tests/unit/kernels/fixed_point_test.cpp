#include "kernels/fixed_point.h"

#include <limits>

#include "kernels/ref/fixed_point.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

constexpr int64_t kOne = int64_t{1} << 36;

TestTensor sums_tensor(const ref::Dense<int64_t>& sums) {
  TestTensor tensor(DType::i64, sums.rows, sums.columns);
  for (int64_t r = 0; r < sums.rows; ++r)
    std::copy_n(sums.values.begin() + r * sums.columns, sums.columns, tensor->row<int64_t>(r));
  return tensor;
}

ref::Dense<int64_t> random_sums(Random& random, int64_t tokens, int64_t n) {
  ref::Dense<int64_t> sums(tokens, n + 1);
  for (int64_t t = 0; t < tokens; ++t)  // magnitudes of every order
    for (int64_t c = 0; c < n; ++c)
      sums.at(t, c) = random_int(random, -(int64_t{1} << 62), int64_t{1} << 62) >> random_int(random, 0, 61);
  return sums;
}

class FixedPoint : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, FixedPoint, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(FixedPoint, ClearsEverySum) {
  for (const Stream& stream : streams(InstructionSet::portable)) {
    const TestTensor sums(DType::i64, 5, 19);  // begins as -1
    clear_sums(stream, sums);
    for (int64_t value : to_dense<int64_t>(sums).values) EXPECT_EQ(value, 0);
  }
}

// Both sides round an exact integer once and add float32 values, so equality.
TEST_P(FixedPoint, AddsWhatTheReferenceAdds) {
  Random random(1);
  for (const Stream& stream : streams(InstructionSet::portable)) {
    for (int64_t n : {1, 7, 64, 1000}) {
      for (bool with_bias : {false, true}) {
        const ref::Dense<int64_t> sums = random_sums(random, 9, n);
        const ref::Matrix bias = with_bias ? random_matrix(random, 1, n, DType::f32) : ref::Matrix();
        ref::Matrix expected = random_matrix(random, 9, n, DType::f32);
        const TestTensor residual(DType::f32, expected);
        const TestTensor bias_tensor(DType::f32, bias);
        add_sums(stream, sums_tensor(sums), with_bias ? Tensor(bias_tensor) : Tensor(), residual);
        ref::add_sums(sums, bias, expected);
        expect_same_bits(residual, TestTensor(DType::f32, expected));
      }
    }
  }
}

TEST_P(FixedPoint, RoundsASumOnce) {
  struct Case {
    int64_t sum;
    float value;
  };
  const Case cases[] = {
      {0, 0.0F},
      {1, 0x1p-36F},
      {-1, -0x1p-36F},
      {kOne, 1.0F},
      {-3 * kOne / 2, -1.5F},
      {(1 << 24) + 1, 0x1p-12F},             // a tie, to even
      {(1 << 24) + 3, 0x1p-12F + 0x1p-34F},  // a tie, to even
      {(int64_t{1} << 54) + (int64_t{1} << 30), 0x1p18F},
      // Just above the tie: rounding to float64 on the way would make it the tie, and round it down.
      {(int64_t{1} << 54) + (int64_t{1} << 30) + 1, 0x1.000002p18F},
      {-(int64_t{1} << 54) - (int64_t{1} << 30) - 1, -0x1.000002p18F},
      {(int64_t{1} << 62) - 1, 0x1p26F}};
  for (const Case& c : cases) {
    ref::Dense<int64_t> sums(1, 2);
    sums.at(0, 0) = c.sum;
    const TestTensor residual(DType::f32, ref::Matrix(1, 1));
    add_sums(streams(InstructionSet::portable)[0], sums_tensor(sums), {}, residual);
    EXPECT_EQ(residual->row<float>(0)[0], c.value) << c.sum;
    EXPECT_EQ(ref::from_fixed(c.sum), c.value) << c.sum;
  }
}

TEST_P(FixedPoint, ACountOfNonFiniteSumsMakesTheRowNan) {
  Random random(2);
  for (const Stream& stream : streams(InstructionSet::portable)) {
    ref::Dense<int64_t> sums = random_sums(random, 6, 20);
    sums.at(2, 20) = 1;
    sums.at(5, 20) = 1'000'000;
    ref::Matrix expected = random_matrix(random, 6, 20, DType::f32);
    const TestTensor residual(DType::f32, expected);
    add_sums(stream, sums_tensor(sums), {}, residual);
    ref::add_sums(sums, {}, expected);
    expect_same_bits(residual, TestTensor(DType::f32, expected));
    for (int64_t t = 0; t < 6; ++t) EXPECT_EQ(std::isnan(residual->row<float>(t)[0]), t == 2 || t == 5) << t;
  }
}

TEST_P(FixedPoint, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(3);
  const ref::Dense<int64_t> sums = random_sums(random, 11, 33);
  const ref::Matrix before = random_matrix(random, 11, 33, DType::f32);
  const TestTensor whole(DType::f32, before);
  add_sums(streams(InstructionSet::portable)[1], sums_tensor(sums), {}, whole);
  for (int64_t t = 0; t < 11; ++t) {
    ref::Dense<int64_t> row(1, 34);
    std::copy_n(sums.values.begin() + t * 34, 34, row.values.begin());
    const TestTensor alone(DType::f32, row_of(before, t));
    add_sums(streams(InstructionSet::portable)[0], sums_tensor(row), {}, alone);
    expect_same_row(alone, 0, whole, t);
  }
}

TEST_P(FixedPoint, NoTokensIsNoWork) {
  for (const Stream& stream : streams(InstructionSet::portable)) {
    const TestTensor sums(DType::i64, 0, 9);
    const TestTensor residual(DType::f32, 0, 8);
    clear_sums(stream, sums);
    add_sums(stream, sums, {}, residual);
  }
}

// The reference itself, on values that are plain to see.
TEST(FixedPointReference, RoundsToNearestEvenAndSaturates) {
  EXPECT_EQ(ref::to_fixed(1.0F), kOne);
  EXPECT_EQ(ref::to_fixed(-0.75F), -3 * kOne / 4);
  EXPECT_EQ(ref::to_fixed(0x1p-36F), 1);
  EXPECT_EQ(ref::to_fixed(0x1p-37F), 0);      // a tie, to even
  EXPECT_EQ(ref::to_fixed(0x1.8p-36F), 2);    // a tie, to even
  EXPECT_EQ(ref::to_fixed(-0x1.4p-35F), -2);  // a tie, to even
  EXPECT_EQ(ref::to_fixed(0x1.000002p-37F), 1);
  EXPECT_EQ(ref::to_fixed(1e-30F), 0);
  EXPECT_EQ(ref::to_fixed(0x1.fffffep17F), 0x3FFFFFC0000000);
  EXPECT_EQ(ref::to_fixed(0x1p18F), int64_t{1} << 54);
  EXPECT_EQ(ref::to_fixed(3e38F), int64_t{1} << 54);
  EXPECT_EQ(ref::to_fixed(-3e38F), -(int64_t{1} << 54));
}

}  // namespace
}  // namespace chorale
