#include "kernels/quantized_group.h"

#include <limits>

#include "unit/kernels/quantized.h"

namespace chorale {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::int8, WeightFormat::int4};

TEST(QuantizedGroup, SizesDivideChunksAndStayWithinTheirBounds) {
  for (int64_t k = 1; k <= 700; ++k) {
    for (WeightFormat format : kFormats) {
      const int64_t group = choose_group(format, k);
      EXPECT_EQ(group % 8, 0);
      EXPECT_LE(group, format == WeightFormat::int8 ? kMaxInt8Group : kMaxInt4Group);
      const int64_t groups = (k + group - 1) / group;
      EXPECT_LT(groups * group - k, 8 * groups) << k;  // padding: less than a step in each
    }
  }
  EXPECT_EQ(choose_group(WeightFormat::int8, 2048), 128);
  EXPECT_EQ(choose_group(WeightFormat::int8, 96), 96);
  EXPECT_EQ(choose_group(WeightFormat::int4, 2048), 64);
  EXPECT_EQ(choose_group(WeightFormat::int4, 96), 48);
  EXPECT_EQ(choose_group(WeightFormat::bf16, 96), 0);
  // Groups of a checkpoint are cut so that none crosses a chunk: 768 inputs in 8 chunks, groups of 128.
  EXPECT_EQ(choose_group(WeightFormat::int4, 96, 128), 32);
  EXPECT_EQ(choose_group(WeightFormat::int4, 512, 128), 64);
  EXPECT_EQ(choose_group(WeightFormat::int4, 2048, 32), 32);
  EXPECT_EQ(choose_group(WeightFormat::int4, 2048, 2048), 64);
}

struct Shape {
  int64_t n, k, n_chunks, k_chunks;
};
constexpr Shape kShapes[] = {{1, 1, 1, 1},    {16, 64, 1, 1}, {17, 65, 1, 1},  {40, 200, 1, 2},
                             {96, 130, 3, 1}, {70, 96, 1, 8}, {33, 259, 1, 7}, {128, 128, 8, 1}};

// Each element within half a step of the source; int4's zero may be off by a float16's rounding as well.
TEST(QuantizedGroup, MatricesStandForTheirSource) {
  Random random(1);
  for (WeightFormat format : kFormats) {
    for (const Shape& s : kShapes) {
      for (float shift : {0.0F, 5.0F, -0.3F}) {
        ref::Matrix source = random_matrix(random, s.n, s.k, DType::f32, 0.3F);
        for (float& w : source.values) w += shift;
        const TestWeights packed(quantized_layout(format, s.n, s.k, s.n_chunks, s.k_chunks));
        pack_half(source, packed, 0);
        for (int64_t n = 0; n < s.n; ++n) {
          for (int64_t k = 0; k < s.k; ++k) {
            const WeightLayout& l = packed.layout;
            const int64_t chunk = s.n_chunks > 1 ? n / l.chunk_n() : k / l.chunk_k();
            const int64_t output = s.n_chunks > 1 ? n % l.chunk_n() : n;
            const PackedElement e = packed_element(packed, chunk, output / 16, output % 16, k % l.chunk_k());
            const double ends = format == WeightFormat::int4 ? std::fabs(e.zero) * 0x1p-11 + 0.01 : 1e-5;
            ASSERT_NEAR(e.value(), source.at(n, k), e.scale * (0.5 + ends)) << n << ", " << k;
          }
        }
      }
    }
  }
}

TEST(QuantizedGroup, GateAndUpAlternate) {
  Random random(2);
  for (WeightFormat format : kFormats) {
    const ref::Matrix gate = random_matrix(random, 40, 70, DType::f32),
                      up = random_matrix(random, 40, 70, DType::f32);
    const TestWeights pair(quantized_layout(format, 40, 70, 2, 1, true));
    const TestWeights gate_alone(quantized_layout(format, 40, 70, 2)),
        up_alone(quantized_layout(format, 40, 70, 2));
    pack_half(gate, pair, 0);
    pack_half(up, pair, 1);
    pack_half(gate, gate_alone, 0);
    pack_half(up, up_alone, 0);
    EXPECT_EQ(unpack(pair, 0).values.values, unpack(gate_alone).values.values);
    EXPECT_EQ(unpack(pair, 1).values.values, unpack(up_alone).values.values);
  }
}

TEST(QuantizedGroup, EqualElementsAndZerosAreExact) {
  for (WeightFormat format : kFormats) {
    for (float value : {0.0F, 1.0F, -0.375F, 100.0F}) {
      ref::Matrix source(3, 50);
      std::fill(source.values.begin(), source.values.end(), value);
      const TestWeights packed(quantized_layout(format, 3, 50));
      EXPECT_EQ(cpu::pack_chunk(source_of(source), packed.layout, packed.bytes.data(), 0), 0);
      for (const float w : unpack(packed).values.values) EXPECT_NEAR(w, value, std::fabs(value) * 1e-6F);
    }
  }
}

TEST(QuantizedGroup, WhatIsNotFiniteMakesItsGroupNan) {
  Random random(3);
  for (WeightFormat format : kFormats) {
    for (float poison : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      ref::Matrix source = random_matrix(random, 5, 256, DType::f32);
      source.at(2, 130) = poison;
      const TestWeights packed(quantized_layout(format, 5, 256));
      EXPECT_EQ(cpu::pack_chunk(source_of(source), packed.layout, packed.bytes.data(), 0),
                std::isnan(poison) ? 1 : 0);
      const ref::Matrix values = unpack(packed).values;
      const int64_t group = packed.layout.group_k;
      for (int64_t n = 0; n < 5; ++n)
        for (int64_t k = 0; k < 256; ++k)
          EXPECT_EQ(std::isnan(values.at(n, k)), n == 2 && k / group == 130 / group) << n << ", " << k;
    }
  }
}

TEST(QuantizedGroup, WeightsBeyondFloat16AreNanAndNotWrong) {
  ref::Matrix source(1, 8);
  source.at(0, 0) = 3e6F;
  const TestWeights packed(quantized_layout(WeightFormat::int4, 1, 8));
  pack_half(source, packed, 0);
  EXPECT_FALSE(std::isfinite(unpack(packed).values.at(0, 1)));
}

TEST(QuantizedGroup, IntegersAreKeptAsTheyAre) {
  Random random(4);
  const int64_t n = 37, k = 192, source_group = 128;
  WeightLayout layout{WeightFormat::int4, n, k, 1, 2, false};
  layout.group_k = choose_group(WeightFormat::int4, layout.chunk_k(), source_group);
  ref::Dense<int32_t> q(n, k);
  for (int32_t& value : q.values) value = static_cast<int32_t>(random_int(random, 0, 15));
  const auto scale = [](int64_t row, int64_t column) {
    return to_float(to_f16(0.01F + 0.001F * static_cast<float>(row + column / source_group * 3)));
  };
  const auto zero = [](int64_t row, int64_t column) {
    return static_cast<float>((row + column / source_group) % 17);
  };
  const TestWeights packed(layout);
  for (int64_t chunk = 0; chunk < 2; ++chunk) {
    cpu::pack_int4_chunk(
        [&](int64_t row, int64_t column, int64_t count, Int4Group& group) {
          group.scale = scale(row, column);
          group.zero = zero(row, column);
          for (int64_t i = 0; i < count; ++i) group.values[i] = static_cast<uint8_t>(q.at(row, column + i));
        },
        layout, packed.bytes.data(), chunk);
  }
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      const PackedElement e = packed_element(packed, column / 96, row / 16, row % 16, column % 96);
      ASSERT_EQ(e.q, q.at(row, column));
      ASSERT_EQ(e.scale, scale(row, column));
      ASSERT_EQ(e.zero, zero(row, column));
    }
  }
}

}  // namespace
}  // namespace chorale
