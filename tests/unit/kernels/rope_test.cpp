#include "kernels/rope.h"

#include "kernels/ref/rope.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

std::vector<float> frequencies(int64_t head_dim, double theta) {
  std::vector<float> f;
  for (int64_t i = 0; i < head_dim / 2; ++i)
    f.push_back(static_cast<float>(std::pow(theta, -2.0 * static_cast<double>(i) / head_dim)));
  return f;
}

ref::Matrix table_of(const std::vector<int32_t>& positions, const std::vector<float>& f) {
  const TestTensor table(DType::f32, static_cast<int64_t>(positions.size()),
                         2 * static_cast<int64_t>(f.size()));
  rope_table(streams(InstructionSet::portable)[0], vector_tensor(positions), vector_tensor(f), 1, table);
  return table.values();
}

class RopeTable : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, RopeTable, testing::ValuesIn(kAllDevices), name_of_device);

// Both take the same float32 angle; the op rounds the cosine to float32 and then its product with the scale.
TEST_P(RopeTable, AgreesWithTheReference) {
  const std::vector<int32_t> positions = {0, 1, 2, 31, 4095, 40959, 131071, 1'000'000};
  for (int64_t head_dim : {2, 6, 64, 128, 256}) {
    for (float scale : {1.0F, 1.2079F}) {
      const std::vector<float> f = frequencies(head_dim, 1e6);
      const ref::Dense<double> expected = ref::rope_table(positions, f, scale);
      ref::Dense<double> tolerance = expected;
      for (double& t : tolerance.values) t = std::fabs(t) * 3 * kFloatRoundoff;
      for (const Stream& stream : streams(InstructionSet::portable)) {
        const TestTensor table(DType::f32, 8, head_dim);
        rope_table(stream, vector_tensor(positions), vector_tensor(f), scale, table);
        expect_within(table.values(), expected, tolerance);
      }
    }
  }
}

TEST_P(RopeTable, ARowDependsOnItsPositionAlone) {
  const std::vector<float> f = frequencies(64, 1e4);
  const std::vector<int32_t> positions = {5, 999, 5, 0, 77};
  const TestTensor whole(DType::f32, 5, 64);
  rope_table(streams(InstructionSet::portable)[1], vector_tensor(positions), vector_tensor(f), 1, whole);
  expect_same_row(whole, 0, whole, 2);
  for (int64_t t = 0; t < 5; ++t)
    expect_same_row(TestTensor(DType::f32, table_of({positions[static_cast<size_t>(t)]}, f)), 0, whole, t);
}

using NormRopeTest = BackendTest;
INSTANTIATE_TEST_SUITE_P(All, NormRopeTest, testing::ValuesIn(all_variants()), name_of_variant);

// The norm is off as in rows_test.cpp; each of the two products and their sum is rounded, relative to the
// products; then the rounding to an activation.
ref::Dense<double> norm_rope_tolerance(const ref::Matrix& x, const ref::Matrix& weight, float eps,
                                       const ref::Matrix& table, DType dtype) {
  const int64_t head_dim = weight.columns;
  const double norm = kFloatRoundoff * (static_cast<double>(head_dim) / 16 + 16) / 2 + 4 * kFloatRoundoff;
  const ref::Dense<double> expected = ref::norm_rope(x, weight, eps, table);
  // |a cos| + |b sin|: the sum for magnitudes is the second half's, the difference's is the same with the
  // halves exchanged.
  ref::Dense<double> tolerance = ref::norm_rope(absolute(x), absolute(weight), eps, absolute(table));
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < x.columns; ++c) {
      const int64_t half = head_dim / 2;
      const int64_t i = c % head_dim;
      if (i < half) {
        double squares = 0;
        for (int64_t d = 0; d < head_dim; ++d) squares += std::pow(double{x.at(t, c - i + d)}, 2);
        const double rms = std::sqrt(squares / static_cast<double>(head_dim) + double{eps});
        tolerance.at(t, c) =
            std::fabs(double{x.at(t, c)} / rms * weight.at(0, i) * table.at(t, i)) +
            std::fabs(double{x.at(t, c + half)} / rms * weight.at(0, half + i) * table.at(t, half + i));
      }
      tolerance.at(t, c) = tolerance.at(t, c) * (norm + 3 * kFloatRoundoff) +
                           std::fabs(expected.at(t, c)) * roundoff_of(dtype);
    }
  }
  return tolerance;
}

TEST_P(NormRopeTest, AgreesWithTheReference) {
  Random random(1);
  const std::vector<int32_t> positions = {0, 1, 33, 5000, 40000};
  for (int64_t head_dim : {2, 6, 18, 32, 64, 80, 128, 256}) {
    for (int64_t heads : {1, 3, 16}) {
      const ref::Matrix x = random_matrix(random, 5, heads * head_dim, DType::f32, 3);
      const ref::Matrix weight = random_matrix(random, 1, head_dim, DType::f32);
      const ref::Matrix table = table_of(positions, frequencies(head_dim, 1e6));
      const ref::Dense<double> expected = ref::norm_rope(x, weight, 1e-6F, table);
      const ref::Dense<double> tolerance = norm_rope_tolerance(x, weight, 1e-6F, table, dtype());
      const TestTensor input(DType::f32, x);
      const TestTensor weight_tensor(DType::f32, weight);
      const TestTensor table_tensor(DType::f32, table);
      for (const Stream& stream : all_streams()) {
        SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim);
        const TestTensor out(dtype(), 5, heads * head_dim);
        norm_rope(stream, input, weight_tensor, 1e-6F, table_tensor, out);
        expect_within(out.values(), expected, tolerance);
      }
    }
  }
}

TEST_P(NormRopeTest, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(2);
  const std::vector<int32_t> positions = {3, 0, 700, 12, 12, 9, 41, 40, 5};
  const std::vector<float> f = frequencies(24, 1e4);
  ref::Matrix x = random_matrix(random, 9, 5 * 24, DType::f32);
  x.at(6, 50) = std::nanf("");
  const TestTensor input(DType::f32, x);
  const TestTensor weight(DType::f32, random_matrix(random, 1, 24, DType::f32));
  const ref::Matrix table = table_of(positions, f);
  const TestTensor table_tensor(DType::f32, table);
  const TestTensor whole(dtype(), 9, 5 * 24);
  norm_rope(all_streams()[1], input, weight, 1e-6F, table_tensor, whole);
  for (int64_t t = 0; t < 9; ++t) {
    const TestTensor one(DType::f32, row_of(x, t));
    const TestTensor one_table(DType::f32, row_of(table, t));
    const TestTensor out(dtype(), 1, 5 * 24);
    norm_rope(stream(), one, weight, 1e-6F, one_table, out);
    expect_same_row(out, 0, whole, t);
    for (int64_t c = 0; c < 5 * 24; ++c)  // NaN stays in its own head
      EXPECT_EQ(std::isnan(out.values().at(0, c)), t == 6 && c / 24 == 2);
  }
}

TEST_P(NormRopeTest, PositionZeroIsTheNormAlone) {
  Random random(3);
  const ref::Matrix x = random_matrix(random, 1, 2 * 64, DType::f32);
  const ref::Matrix ones = [] {
    ref::Matrix m(1, 64);
    std::fill(m.values.begin(), m.values.end(), 1.0F);
    return m;
  }();
  const TestTensor input(DType::f32, x);
  const TestTensor weight(DType::f32, ones);
  const TestTensor table(DType::f32, table_of({0}, frequencies(64, 1e4)));
  const TestTensor out(DType::f32, 1, 2 * 64);
  norm_rope(stream(), input, weight, 0, table, out);
  for (int64_t head : {0, 1}) {
    double squares = 0;
    for (int64_t d = 0; d < 64; ++d) squares += std::pow(out.values().at(0, head * 64 + d), 2);
    EXPECT_NEAR(squares, 64, 64 * 32 * kFloatRoundoff);  // twice the relative error of the norm
  }
}

}  // namespace
}  // namespace chorale
