#include "kernels/rows.h"

#include <limits>

#include "kernels/ref/rows.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

class Embed : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, Embed, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(Embed, CopiesRowsOfTheTable) {
  Random random(1);
  for (DType dtype : {DType::bf16, DType::f32}) {
    const ref::Matrix table = random_matrix(random, 50, 37, dtype);
    const TestTensor table_tensor(dtype, table);
    const std::vector<int32_t> ids = {49, 0, 7, 7, 13};
    for (const Stream& stream : streams(InstructionSet::portable)) {
      const TestTensor out(DType::f32, 5, 37);
      embed(stream, vector_tensor(ids), table_tensor, out);
      expect_same_bits(out, TestTensor(DType::f32, ref::gather_rows(ids, table)));
    }
  }
}

class GatherRows : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, GatherRows, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(GatherRows, CopiesRows) {
  Random random(2);
  for (int64_t columns : {1, 16, 37}) {
    const ref::Matrix x = random_matrix(random, 20, columns, DType::f32);
    const TestTensor input(DType::f32, x);
    const std::vector<int32_t> rows = {19, 3, 3, 0};
    for (const Stream& stream : streams(InstructionSet::portable)) {
      const TestTensor out(DType::f32, 4, columns);
      gather_rows(stream, vector_tensor(rows), input, out);
      expect_same_bits(out, TestTensor(DType::f32, ref::gather_rows(rows, x)));
    }
  }
}

class Rows : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, Rows, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(Rows, NoRowsIsNoWork) {
  const TestTensor table(DType::f32, 4, 3);
  const TestTensor none(DType::i32, 1, 0);
  const TestTensor out(DType::f32, 0, 3);
  const TestTensor weight(DType::f32, ref::Matrix(1, 3));
  for (const Stream& stream : streams(InstructionSet::portable)) {
    embed(stream, none, table, out);
    gather_rows(stream, none, table, out);
    rms_norm(stream, out, weight, 1e-6F, out);
  }
}

using RmsNormTest = BackendTest;
INSTANTIATE_TEST_SUITE_P(All, RmsNormTest, testing::ValuesIn(all_variants()), name_of_variant);

// The squares have one sign, so their sum over 16 lanes is off by at most one roundoff per column of a lane,
// one for an unfused square, and four to add up the lanes; the division by H, the sum with eps and the root
// (which halves what it is given) bring it to the last term. 1 / root and two products follow, then the
// rounding to an activation.
double rms_norm_error(int64_t columns, DType dtype) {
  return kFloatRoundoff * (static_cast<double>(columns) / 16 + 16) / 2 + 4 * kFloatRoundoff +
         roundoff_of(dtype);
}

TEST_P(RmsNormTest, AgreesWithTheReference) {
  Random random(3);
  for (int64_t columns : {1, 2, 6, 15, 16, 17, 64, 100, 127, 2048, 2049}) {
    for (float deviation : {1e-4F, 1.0F, 300.0F}) {
      const ref::Matrix x = random_matrix(random, 5, columns, DType::f32, deviation);
      const ref::Matrix weight = random_matrix(random, 1, columns, DType::f32);
      const TestTensor input(DType::f32, x);
      const TestTensor weight_tensor(DType::f32, weight);
      const ref::Dense<double> expected = ref::rms_norm(x, weight, 1e-6F);
      ref::Dense<double> tolerance = expected;
      for (double& t : tolerance.values) t = std::fabs(t) * rms_norm_error(columns, dtype());
      for (const Stream& stream : all_streams()) {
        SCOPED_TRACE(testing::Message() << columns << " columns of " << deviation);
        const TestTensor out(dtype(), 5, columns);
        rms_norm(stream, input, weight_tensor, 1e-6F, out);
        expect_within(out.values(), expected, tolerance);
      }
    }
  }
}

TEST_P(RmsNormTest, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(4);
  ref::Matrix x = random_matrix(random, 23, 77, DType::f32);
  x.at(7, 5) = std::nanf("");
  const TestTensor input(DType::f32, x);
  const TestTensor weight(DType::f32, random_matrix(random, 1, 77, DType::f32));
  const TestTensor whole(dtype(), 23, 77);
  rms_norm(all_streams()[1], input, weight, 1e-6F, whole);
  for (int64_t r = 0; r < 23; ++r) {
    const TestTensor one(DType::f32, row_of(x, r));
    const TestTensor out(dtype(), 1, 77);
    rms_norm(stream(), one, weight, 1e-6F, out);
    expect_same_row(out, 0, whole, r);
    for (float value : out.values().values) EXPECT_EQ(std::isnan(value), r == 7);
  }
}

TEST_P(RmsNormTest, ARowOfZerosIsZero) {
  Random random(5);
  const TestTensor input(DType::f32, ref::Matrix(1, 40));
  const TestTensor weight(DType::f32, random_matrix(random, 1, 40, DType::f32));
  const TestTensor out(dtype(), 1, 40);
  rms_norm(stream(), input, weight, 1e-6F, out);
  for (float value : out.values().values) EXPECT_EQ(value, 0);
}

}  // namespace
}  // namespace chorale
