#include "kernels/ref/quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chorale::ref {
namespace {

int64_t groups_of(int64_t chunk_k, int64_t group_k) {
  return (chunk_k + group_k - 1) / group_k;
}

}  // namespace

QuantizedRows quantize(const Matrix& x, int64_t k_chunks, int64_t group_k) {
  const int64_t chunk_k = x.columns / k_chunks;
  const int64_t groups = k_chunks * groups_of(chunk_k, group_k);
  QuantizedRows out{{x.rows, groups * group_k}, {x.rows, groups}, {x.rows, groups}};
  for (int64_t m = 0; m < x.rows; ++m) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t chunk = g / groups_of(chunk_k, group_k);
      const int64_t begin = g % groups_of(chunk_k, group_k) * group_k;
      const int64_t count = std::min(group_k, chunk_k - begin);
      float largest = 0;
      bool finite = true;
      for (int64_t i = 0; i < count; ++i) {
        const float value = x.at(m, chunk * chunk_k + begin + i);
        finite = finite && std::isfinite(value);
        largest = std::max(largest, std::fabs(value));
      }
      if (!finite) out.scales.at(m, g) = std::numeric_limits<float>::quiet_NaN();
      if (!finite || largest < 0x1p-100F) continue;
      out.scales.at(m, g) = largest / 127;
      const float inverse = 127 / largest;
      for (int64_t i = 0; i < count; ++i) {
        const float value = x.at(m, chunk * chunk_k + begin + i) * inverse;
        out.values.at(m, g * group_k + i) = static_cast<int8_t>(std::nearbyint(value));
        out.sums.at(m, g) += out.values.at(m, g * group_k + i);
      }
    }
  }
  return out;
}

Matrix dequantize(const QuantizedRows& rows, int64_t columns, int64_t k_chunks, int64_t group_k) {
  const int64_t chunk_k = columns / k_chunks;
  Matrix x(rows.values.rows, columns);
  for (int64_t m = 0; m < x.rows; ++m) {
    for (int64_t k = 0; k < columns; ++k) {
      const int64_t in_chunk = k % chunk_k;
      const int64_t group = k / chunk_k * groups_of(chunk_k, group_k) + in_chunk / group_k;
      x.at(m, k) = rows.scales.at(m, group) *
                   static_cast<float>(rows.values.at(m, group * group_k + in_chunk % group_k));
    }
  }
  return x;
}

}  // namespace chorale::ref
