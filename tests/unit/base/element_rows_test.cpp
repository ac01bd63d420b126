#include "base/element_rows.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/float16.h"

namespace chorale {
namespace {

// The bytes of values in a file, at an address that is not aligned.
template <typename T>
class Unaligned {
 public:
  explicit Unaligned(const std::vector<T>& values) : bytes_(values.size() * sizeof(T) + 1) {
    std::memcpy(bytes_.data() + 1, values.data(), values.size() * sizeof(T));
  }
  explicit Unaligned(size_t count) : bytes_(count * sizeof(T) + 1) {}
  std::byte* data() { return bytes_.data() + 1; }
  T operator[](size_t i) const { return load_element<T>(bytes_.data() + 1 + i * sizeof(T)); }

 private:
  std::vector<std::byte> bytes_;
};

constexpr size_t kPatterns = 65536;

// All bit patterns of a narrow type.
template <typename Source>
void expect_every_pattern_converted(DType dtype) {
  std::vector<Source> values;
  int64_t nans = 0;
  for (uint32_t i = 0; i < kPatterns; ++i) {
    values.push_back({static_cast<uint16_t>(i)});
    nans += std::isnan(to_float(values.back())) ? 1 : 0;
  }
  Unaligned<Source> source(values);
  Unaligned<float> wide(kPatterns);
  Unaligned<bf16> narrow(kPatterns);
  EXPECT_EQ(convert_elements(source.data(), dtype, wide.data(), DType::f32, kPatterns), nans);
  EXPECT_EQ(convert_elements(source.data(), dtype, narrow.data(), DType::bf16, kPatterns), nans);
  int64_t wrong = 0;
  const auto same = [](float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); };
  for (size_t i = 0; i < kPatterns; ++i) {
    const float value = to_float(values[i]);
    wrong += same(wide[i], value) ? 0 : 1;
    wrong += same(load_float(source.data() + i * sizeof(Source), dtype), value) ? 0 : 1;
    const bf16 expected = dtype == DType::bf16 ? bf16{static_cast<uint16_t>(i)}  // a copy, NaN included
                                               : to_bf16(value);
    wrong += narrow[i] == expected ? 0 : 1;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(ConvertElements, RoundsEveryBitPatternOfTheNarrowTypes) {
  expect_every_pattern_converted<bf16>(DType::bf16);
  expect_every_pattern_converted<f16>(DType::f16);
}

int64_t convert_bits(uint32_t bits, bf16& out) {
  return convert_elements(reinterpret_cast<const std::byte*>(&bits), DType::f32,
                          reinterpret_cast<std::byte*>(&out), DType::bf16, 1);
}

TEST(ConvertElements, RoundsFloat32ToNearestEven) {
  constexpr std::pair<uint32_t, uint16_t> kCases[] = {
      {0x3F800000, 0x3F80}, {0x3F808000, 0x3F80}, {0x3F808001, 0x3F81}, {0x3F818000, 0x3F82},
      {0x3F817FFF, 0x3F81}, {0xBF808001, 0xBF81}, {0x7F7FFFFF, 0x7F80}, {0x7F7F7FFF, 0x7F7F},
      {0x00008000, 0x0000}, {0x00008001, 0x0001}, {0x80000000, 0x8000}, {0xFF800000, 0xFF80}};
  for (const auto& [bits, expected] : kCases) {
    bf16 out{};
    EXPECT_EQ(convert_bits(bits, out), 0);
    EXPECT_EQ(out.bits, expected) << std::hex << bits;
  }
  // Differs from infinity in its lowest bit alone: cutting it off would make infinity.
  bf16 out{};
  EXPECT_EQ(convert_bits(0x7F800001, out), 1);
  EXPECT_TRUE(std::isnan(to_float(out)));
}

TEST(ConvertElements, CopiesFloat32AndCountsItsNan) {
  const std::vector<uint32_t> bits = {0x7F800001, 0xFFC00000, 0x7F800000, 0x80000000, 0x00000001, 0x3F800001};
  Unaligned<uint32_t> source(bits);
  Unaligned<uint32_t> target(bits.size());
  EXPECT_EQ(convert_elements(source.data(), DType::f32, target.data(), DType::f32, std::ssize(bits)), 2);
  for (size_t i = 0; i < bits.size(); ++i) EXPECT_EQ(target[i], bits[i]);
}

TEST(FloatElements, AreTheThreePlainTypes) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) EXPECT_TRUE(is_float_element(dtype));
  for (const DType dtype : {DType::f64, DType::f8_e4m3, DType::i16, DType::boolean})
    EXPECT_FALSE(is_float_element(dtype));
}

}  // namespace
}  // namespace chorale
