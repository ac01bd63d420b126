#include "kernels/ref/norm_order.h"

#include "kernels/cuda/norm_order.h"
#include "kernels/ref/rope.h"
#include "kernels/ref/rows.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

// A thread's share of the squares runs one after the other; then five exchanges, or ten over several warps.
// Else as in rows_test.cpp.
double norm_error(int64_t longest_share, int64_t exchanges) {
  return kFloatRoundoff * (static_cast<double>(longest_share + exchanges) + 4) / 2 + 4 * kFloatRoundoff;
}

TEST(NormOrder, RmsNormAgreesWithThePlainReference) {
  Random random(1);
  for (int64_t columns : {1, 2, 6, 31, 33, 256, 257, 2048, 2049, 9000}) {
    const ref::Matrix x = random_matrix(random, 3, columns, DType::f32);
    const ref::Matrix weight = random_matrix(random, 1, columns, DType::f32);
    const ref::Dense<double> expected = ref::rms_norm(x, weight, 1e-6F);
    ref::Dense<double> tolerance = expected;
    const int64_t per_turn = cuda::norm_threads(columns) * cuda::kNormRun;
    const int64_t share = (columns + per_turn - 1) / per_turn * cuda::kNormRun;
    for (double& t : tolerance.values) t = std::fabs(t) * norm_error(share, 10);
    expect_within(ref::rms_norm_in_order(x, weight, 1e-6F), expected, tolerance);
  }
}

TEST(NormOrder, NormRopeAgreesWithThePlainReference) {
  Random random(2);
  for (int64_t head_dim : {2, 4, 6, 18, 64, 80, 128, 256}) {
    const ref::Matrix x = random_matrix(random, 4, 3 * head_dim, DType::f32);
    const ref::Matrix weight = random_matrix(random, 1, head_dim, DType::f32);
    const ref::Matrix table = random_matrix(random, 4, head_dim, DType::f32);
    const ref::Dense<double> expected = ref::norm_rope(x, weight, 1e-6F, table);
    // |a cos| + |b sin| of either half.
    ref::Matrix swapped = absolute(table);
    for (int64_t t = 0; t < 4; ++t)
      std::rotate(swapped.values.begin() + t * head_dim, swapped.values.begin() + t * head_dim + head_dim / 2,
                  swapped.values.begin() + (t + 1) * head_dim);
    const ref::Dense<double> sums = ref::norm_rope(absolute(x), absolute(weight), 1e-6F, absolute(table));
    const ref::Dense<double> differences = ref::norm_rope(absolute(x), absolute(weight), 1e-6F, swapped);
    ref::Dense<double> tolerance = sums;
    for (int64_t t = 0; t < 4; ++t) {
      for (int64_t c = 0; c < 3 * head_dim; ++c) {
        // With sine and cosine exchanged, the second half's b sin + a cos is that of the first.
        const int64_t i = c % head_dim;
        if (i < head_dim / 2) tolerance.at(t, c) = differences.at(t, c + head_dim / 2);
        tolerance.at(t, c) *= norm_error(head_dim / 32 + 4, 5) + 3 * kFloatRoundoff;
      }
    }
    expect_within(ref::norm_rope_in_order(x, weight, 1e-6F, table), expected, tolerance);
  }
}

TEST(NormOrder, ThreadsAreWholeWarpsWithTwoRunsEach) {
  EXPECT_EQ(cuda::norm_threads(1), 32);
  EXPECT_EQ(cuda::norm_threads(256), 32);
  EXPECT_EQ(cuda::norm_threads(257), 64);
  EXPECT_EQ(cuda::norm_threads(2048), 256);
  EXPECT_EQ(cuda::norm_threads(8192), 1024);
  EXPECT_EQ(cuda::norm_threads(100'000), 1024);
}

}  // namespace
}  // namespace chorale
