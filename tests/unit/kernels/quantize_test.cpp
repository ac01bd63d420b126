#include <limits>

#include "unit/kernels/quantized.h"

namespace chorale {
namespace {

class QuantizeRowsTest : public QuantizedTest {};
INSTANTIATE_TEST_SUITE_P(All, QuantizeRowsTest, testing::ValuesIn(all_quantized_variants()),
                         name_of_quantized_variant);

// Byte for byte what the reference's rows are in the header's picture.
void expect_rows(const Tensor& actual, const ref::QuantizedRows& expected, int64_t group_k) {
  const int64_t groups = expected.scales.columns;
  ASSERT_EQ(actual.columns(), groups * (8 + group_k));
  int64_t wrong = 0;
  for (int64_t m = 0; m < actual.rows(); ++m) {
    const std::byte* row = actual.row<std::byte>(m);
    for (int64_t g = 0; g < groups; ++g, row += 8 + group_k) {
      float scale = 0;
      int32_t sum = 0;
      std::memcpy(&scale, row, 4);
      std::memcpy(&sum, row + 4, 4);
      wrong += same_bits(scale, expected.scales.at(m, g)) ? 0 : 1;
      wrong += sum == expected.sums.at(m, g) ? 0 : 1;
      wrong += std::memcmp(row + 8, &expected.values.at(m, g * group_k), static_cast<size_t>(group_k)) == 0
                   ? 0
                   : 1;
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST_P(QuantizeRowsTest, RowsAreThoseOfTheReference) {
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    const int64_t k_chunks = int64_t{1} << random_int(random, 0, 3);
    const int64_t k = k_chunks * random_int(random, 1, 300);
    const WeightLayout layout = quantized_layout(format(), 16, k, 1, k_chunks);
    ref::Matrix x = random_matrix(random, random_int(random, 1, 200), k, dtype(), 3.0F);
    for (int outlier = 0; outlier < 5; ++outlier) {  // large, tiny, and groups of zeros
      const float values[] = {1e4F, 0x1p-110F, 0.0F, -0x1p100F, 0x1p-90F};
      const int64_t row = random_int(random, 0, x.rows - 1), first = random_int(random, 0, k - 1);
      for (int64_t c = first; c < std::min(k, first + 150); ++c)
        x.at(row, c) = rounded_to(dtype(), values[outlier]);
    }
    const TestTensor input(dtype(), x);
    for (const Stream& stream : all_streams())
      expect_rows(quantized(stream, input, layout), ref::quantize(x, k_chunks, layout.group_k),
                  layout.group_k);
  }
}

TEST_P(QuantizeRowsTest, WhatIsNotFiniteMakesItsOwnGroupNan) {
  Random random(2);
  const WeightLayout layout = quantized_layout(format(), 16, 400, 1, 2);
  for (float poison :
       {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    ref::Matrix x = random_matrix(random, 3, 400, dtype());
    x.at(1, random_int(random, 0, 399)) = poison;
    const TestTensor input(dtype(), x);
    const ref::QuantizedRows expected = ref::quantize(x, 2, layout.group_k);
    EXPECT_EQ(std::count_if(expected.scales.values.begin(), expected.scales.values.end(),
                            [](float scale) { return std::isnan(scale); }),
              1);
    expect_rows(quantized(stream(), input, layout), expected, layout.group_k);
  }
}

TEST_P(QuantizeRowsTest, ValuesAreWithinHalfAStep) {
  Random random(3);
  const WeightLayout layout = quantized_layout(format(), 16, 333);
  const ref::Matrix x = random_matrix(random, 20, 333, dtype());
  const ref::QuantizedRows rows = ref::quantize(x, 1, layout.group_k);
  const ref::Matrix back = dequantized(x, layout);
  for (int64_t m = 0; m < 20; ++m)
    for (int64_t k = 0; k < 333; ++k)
      EXPECT_NEAR(back.at(m, k), x.at(m, k), rows.scales.at(m, k / layout.group_k) * 0.50001F);
}

}  // namespace
}  // namespace chorale
