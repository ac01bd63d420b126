#include "kernels/ref/fixed_point.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace chorale::ref {

// Integer arithmetic alone, so that it shares no rounding instruction with the op.
int64_t to_fixed(float value) {
  const float clamped = std::clamp(value, -0x1p18F, 0x1p18F);
  int exponent = 0;
  const auto mantissa = static_cast<int64_t>(std::ldexp(std::frexp(std::fabs(clamped), &exponent), 24));
  const int shift = exponent - 24 + 36;  // |clamped| * 2^36 = mantissa * 2^shift
  int64_t magnitude = 0;
  if (shift >= 0) {
    magnitude = mantissa << shift;
  } else if (shift >= -25) {  // below, it is less than half a unit
    const int64_t unit = int64_t{1} << -shift;
    const int64_t rest = mantissa % unit;
    magnitude = mantissa / unit;
    if (rest > unit / 2 || (rest == unit / 2 && magnitude % 2 == 1)) ++magnitude;
  }
  return clamped < 0 ? -magnitude : magnitude;
}

float from_fixed(int64_t sum) {
  if (sum == 0) return 0;
  auto magnitude = static_cast<uint64_t>(sum < 0 ? -sum : sum);
  const int excess = 64 - std::countl_zero(magnitude) - 24;  // bits beyond float32's 24
  if (excess > 0) {
    const uint64_t unit = uint64_t{1} << excess;
    const uint64_t rest = magnitude % unit;
    magnitude -= rest;
    if (rest > unit / 2 || (rest == unit / 2 && (magnitude >> excess) % 2 == 1)) magnitude += unit;
  }
  const float value = std::ldexp(static_cast<float>(magnitude), -36);  // exact: 24 bits are left
  return sum < 0 ? -value : value;
}

void add_sums(const Dense<int64_t>& sums, const Matrix& bias, Matrix& residual) {
  for (int64_t t = 0; t < residual.rows; ++t) {
    const bool finite = sums.at(t, residual.columns) == 0;
    for (int64_t n = 0; n < residual.columns; ++n) {
      const float value = from_fixed(sums.at(t, n)) + (bias.empty() ? 0.0F : bias.at(0, n));
      residual.at(t, n) = finite ? residual.at(t, n) + value : std::numeric_limits<float>::quiet_NaN();
    }
  }
}

}  // namespace chorale::ref
