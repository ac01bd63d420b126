#include "base/float8.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/dtype.h"

namespace chorale {
namespace {

// The definition, in double precision: (-1)^s * 2^(e - 7) * (1 + m / 8), and without the leading 1 where e is
// 0.
double by_definition(int bits) {
  const int exponent = bits / 8 % 16;
  const int mantissa = bits % 8;
  const double magnitude = exponent > 0 ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return bits >= 128 ? -magnitude : magnitude;
}

TEST(Float8, HasTheValuesOfTheDefinition) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = to_float(f8_e4m3{static_cast<uint8_t>(bits)});
    EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
    if (bits % 128 == 127) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else {
      EXPECT_EQ(static_cast<double>(value), by_definition(bits)) << bits;
    }
  }
}

TEST(Float8, HasKnownValues) {
  EXPECT_EQ(to_float(f8_e4m3{0x38}), 1.0F);
  EXPECT_EQ(to_float(f8_e4m3{0x01}), 0x1p-9F);
  EXPECT_EQ(to_float(f8_e4m3{0x08}), 0x1p-6F);
  EXPECT_EQ(to_float(f8_e4m3{0x7E}), 448.0F);
  EXPECT_EQ(to_float(f8_e4m3{0xFE}), -448.0F);
}

TEST(Float8, IsAnElementTypeOfFiles) {
  EXPECT_EQ(size_of(DType::f8_e4m3), 1U);
  EXPECT_EQ(name_of(DType::f8_e4m3), "float8_e4m3");
  EXPECT_EQ(safetensors_name(DType::f8_e4m3), "F8_E4M3");
  EXPECT_EQ(dtype_from_safetensors("F8_E4M3"), DType::f8_e4m3);
}

}  // namespace
}  // namespace chorale
