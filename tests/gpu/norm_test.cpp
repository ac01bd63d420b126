#include <vector>

#include "gpu/gpu_test.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/ref/fixed_point.h"
#include "kernels/ref/norm_order.h"
#include "kernels/ref/rope.h"

namespace chorale::cuda {
namespace {

constexpr int64_t kColumns[] = {1,   2,   3,    6,    31,   64,   100,  128,  255,
                                256, 257, 1000, 2048, 2049, 4096, 5120, 8192, 9000};

class GpuNormTest : public testing::TestWithParam<DType> {};
std::string name_of_dtype(const testing::TestParamInfo<DType>& info) {
  return std::string(name_of(info.param));
}
INSTANTIATE_TEST_SUITE_P(All, GpuNormTest, testing::Values(DType::bf16, DType::f32), name_of_dtype);

TEST_P(GpuNormTest, RmsNormHasTheBitsOfTheReferenceInOrder) {
  Random random(1);
  for (int64_t columns : kColumns) {
    for (float deviation : {1e-4F, 1.0F, 300.0F}) {
      SCOPED_TRACE(testing::Message() << columns << " columns of " << deviation);
      const int64_t rows = random_int(random, 1, 9);
      const ref::Matrix x = random_matrix(random, rows, columns, DType::f32, deviation);
      const ref::Matrix weight = random_matrix(random, 1, columns, DType::f32);
      const GpuTensor out(GetParam(), rows, columns);
      rms_norm(queue(), GpuTensor(DType::f32, x), GpuTensor(DType::f32, weight), 1e-6F, out);
      expect_same_bits(out.download(), TestTensor(GetParam(), ref::rms_norm_in_order(x, weight, 1e-6F)));
    }
  }
}

TEST_P(GpuNormTest, WhereRowsBeginDoesNotChangeBits) {
  Random random(2);
  const ref::Matrix x = random_matrix(random, 5, 1003, DType::f32);
  const ref::Matrix weight = random_matrix(random, 1, 1003, DType::f32);
  const GpuTensor input(DType::f32, x);
  const GpuTensor weights(DType::f32, weight);
  for (int64_t first : {0, 1, 2, 3}) {
    const GpuTensor out(GetParam(), 5, 1003);
    rms_norm(queue(), Tensor(input).middle_columns(first, 1000), Tensor(weights).middle_columns(first, 1000),
             1e-6F, Tensor(out).middle_columns(first, 1000));
    const ref::Matrix expected =
        ref::rms_norm_in_order(columns_of(x, first, 1000), columns_of(weight, first, 1000), 1e-6F);
    const TestTensor found = out.download();
    expect_same_host_bits(found->middle_columns(first, 1000), TestTensor(GetParam(), expected).host());
  }
}

TEST_P(GpuNormTest, NanStaysInItsRow) {
  Random random(3);
  ref::Matrix x = random_matrix(random, 23, 77, DType::f32);
  x.at(7, 5) = std::nanf("");
  const GpuTensor out(GetParam(), 23, 77);
  rms_norm(queue(), GpuTensor(DType::f32, x), GpuTensor(DType::f32, random_matrix(random, 1, 77, DType::f32)),
           1e-6F, out);
  const ref::Matrix values = out.values();
  for (int64_t r = 0; r < 23; ++r)
    for (int64_t c = 0; c < 77; ++c) ASSERT_EQ(std::isnan(values.at(r, c)), r == 7);
}

// Against the three ops, each with its own reference.
TEST_P(GpuNormTest, AddSumsNormIsTheThreeOpsInOne) {
  Random random(4);
  for (int64_t columns : kColumns) {
    for (bool with_bias : {false, true}) {
      SCOPED_TRACE(testing::Message() << columns << " columns");
      const int64_t rows = random_int(random, 1, 9);
      ref::Matrix residual = random_matrix(random, rows, columns, DType::f32);
      const ref::Matrix bias = with_bias ? random_matrix(random, 1, columns, DType::f32) : ref::Matrix();
      const ref::Matrix weight = random_matrix(random, 1, columns, DType::f32);
      ref::Dense<int64_t> sums(rows, columns + 1);
      TestTensor host_sums(DType::i64, rows, columns + 1);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c)
          sums.at(r, c) = random_int(random, -(int64_t{1} << 40), int64_t{1} << 40);
        sums.at(r, columns) = random_int(random, 0, 3) == 0 ? 2 : 0;
        std::copy_n(sums.values.begin() + r * (columns + 1), columns + 1, host_sums->row<int64_t>(r));
      }
      const GpuTensor sums_tensor(host_sums);
      const GpuTensor residual_tensor(DType::f32, residual);
      const GpuTensor bias_tensor(DType::f32, bias);
      const GpuTensor out(GetParam(), rows, columns);
      add_sums_norm(queue(), sums_tensor, with_bias ? Tensor(bias_tensor) : Tensor(), residual_tensor,
                    GpuTensor(DType::f32, weight), 1e-6F, out);
      ref::add_sums(sums, bias, residual);
      expect_same_bits(residual_tensor.download(), TestTensor(DType::f32, residual));
      expect_same_bits(out.download(),
                       TestTensor(GetParam(), ref::rms_norm_in_order(residual, weight, 1e-6F)));
      for (int64_t value : to_dense<int64_t>(sums_tensor.download()).values) ASSERT_EQ(value, 0);
    }
  }
}

std::vector<float> frequencies(int64_t head_dim, double theta) {
  std::vector<float> f;
  for (int64_t i = 0; i < head_dim / 2; ++i)
    f.push_back(
        static_cast<float>(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim))));
  return f;
}

// Both take the same float32 angle; the op rounds the cosine to float32 and then its product with the scale.
// The device's sine in double precision is off by two units of its last place at most, far less than that.
TEST(GpuRopeTable, AgreesWithTheReference) {
  const std::vector<int32_t> positions = {0, 1, 2, 31, 4095, 40959, 131071, 1'000'000};
  for (int64_t head_dim : {2, 6, 64, 128, 256}) {
    for (float scale : {1.0F, 1.2079F}) {
      const std::vector<float> f = frequencies(head_dim, 1e6);
      const ref::Dense<double> expected = ref::rope_table(positions, f, scale);
      ref::Dense<double> tolerance = expected;
      for (double& t : tolerance.values) t = std::fabs(t) * 3 * kFloatRoundoff;
      const GpuTensor table(DType::f32, 8, head_dim);
      rope_table(queue(), gpu_vector(positions), gpu_vector(f), scale, table);
      expect_within(table.values(), expected, tolerance);
    }
  }
}

TEST_P(GpuNormTest, NormRopeHasTheBitsOfTheReferenceInOrder) {
  Random random(5);
  for (int64_t head_dim : {2, 4, 6, 18, 32, 64, 80, 128, 256, 320}) {
    for (int64_t heads : {1, 3, 4, 32}) {
      SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim);
      const int64_t tokens = random_int(random, 1, 9);
      const ref::Matrix x = random_matrix(random, tokens, heads * head_dim, DType::f32, 3);
      const ref::Matrix weight = random_matrix(random, 1, head_dim, DType::f32);
      const ref::Matrix table = random_matrix(random, tokens, head_dim, DType::f32);
      const GpuTensor out(GetParam(), tokens, heads * head_dim);
      norm_rope(queue(), GpuTensor(DType::f32, x), GpuTensor(DType::f32, weight), 1e-6F,
                GpuTensor(DType::f32, table), out);
      expect_same_bits(out.download(),
                       TestTensor(GetParam(), ref::norm_rope_in_order(x, weight, 1e-6F, table)));
    }
  }
}

TEST(GpuNorm, NoRowsIsNoWork) {
  const GpuTensor none(DType::f32, 0, 64);
  const GpuTensor sums(DType::i64, 0, 65);
  const GpuTensor weight(DType::f32, ref::Matrix(1, 64));
  rms_norm(queue(), none, weight, 1e-6F, none);
  add_sums_norm(queue(), sums, {}, none, weight, 1e-6F, none);
  norm_rope(queue(), none, weight, 1e-6F, none, none);
  rope_table(queue(), GpuTensor(DType::i32, 1, 0), GpuTensor(DType::f32, ref::Matrix(1, 32)), 1, none);
  queue().synchronize();
}

}  // namespace
}  // namespace chorale::cuda
