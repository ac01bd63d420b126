#include "tools/check/nan_scan.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "base/float16.h"

namespace chorale::tools {
namespace {

template <typename T>
bool scan(const std::vector<T>& values, DType dtype, size_t misalign) {
  std::vector<std::byte> memory(values.size() * sizeof(T) + misalign);
  if (!values.empty()) std::memcpy(memory.data() + misalign, values.data(), values.size() * sizeof(T));
  io::TensorEntry tensor;
  tensor.dtype = dtype;
  tensor.bytes = std::span(memory).subspan(misalign);
  return has_nan(tensor);
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(HasNan, FindsOneAnywhereInEveryType) {
  constexpr size_t kCount = 200'000;
  for (const size_t place : {size_t{0}, size_t{1}, size_t{65'535}, size_t{65'536}, kCount - 1}) {
    for (const size_t misalign : {0, 1}) {
      std::vector<float> f32(kCount, -kInfinity);
      std::vector<bf16> bfloat(kCount, to_bf16(-kInfinity));
      std::vector<f16> half(kCount, to_f16(-kInfinity));
      std::vector<double> f64(kCount, -std::numeric_limits<double>::infinity());
      EXPECT_FALSE(scan(f32, DType::f32, misalign));
      EXPECT_FALSE(scan(bfloat, DType::bf16, misalign));
      EXPECT_FALSE(scan(half, DType::f16, misalign));
      EXPECT_FALSE(scan(f64, DType::f64, misalign));
      f32[place] = -kNan;
      bfloat[place] = to_bf16(kNan);
      half[place] = to_f16(kNan);
      f64[place] = std::numeric_limits<double>::quiet_NaN();
      EXPECT_TRUE(scan(f32, DType::f32, misalign));
      EXPECT_TRUE(scan(bfloat, DType::bf16, misalign));
      EXPECT_TRUE(scan(half, DType::f16, misalign));
      EXPECT_TRUE(scan(f64, DType::f64, misalign));
    }
  }
}

TEST(HasNan, FindsTheNanNextToInfinity) {
  EXPECT_TRUE(scan(std::vector<bf16>{{0x7F81}}, DType::bf16, 0));
  EXPECT_TRUE(scan(std::vector<bf16>{{0xFF81}}, DType::bf16, 0));
  EXPECT_TRUE(scan(std::vector<f16>{{0x7C01}}, DType::f16, 0));
}

TEST(HasNan, IntegersHaveNone) {
  EXPECT_FALSE(scan(std::vector<uint32_t>(9, 0xFFFFFFFF), DType::i32, 0));
}

TEST(HasNan, EmptyTensorHasNone) {
  EXPECT_FALSE(scan(std::vector<float>{}, DType::f32, 0));
}

}  // namespace
}  // namespace chorale::tools
