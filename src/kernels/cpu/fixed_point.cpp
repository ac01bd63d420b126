// fixed_point.h on the CPU.
#include "kernels/fixed_point.h"

#include <cstring>
#include <limits>

#include "kernels/cpu/ops.h"
#include "kernels/shapes.h"

namespace chorale::cpu {

void clear_sums(const Stream& stream, const Tensor& sums) {
  stream.pool().parallel(sums.rows(), [&](int64_t row) {
    std::memset(sums.row<int64_t>(row), 0, static_cast<size_t>(sums.columns()) * sizeof(int64_t));
  });
}

void add_sums(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual) {
  const int64_t columns = residual.columns();
  const float* add = bias.empty() ? nullptr : bias.data<float>();
  stream.pool().parallel(residual.rows(), [&](int64_t row) {
    const int64_t* from = sums.row<int64_t>(row);
    float* to = residual.row<float>(row);
    if (from[columns] != 0) {  // some partial sum was not finite
      for (int64_t c = 0; c < columns; ++c) to[c] = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    for (int64_t c = 0; c < columns; ++c) {
      const float value =
          static_cast<float>(from[c]) * (1 / kFixedOne);  // one rounding; the product is exact
      to[c] += add == nullptr ? value : value + add[c];
    }
  });
}

}  // namespace chorale::cpu
