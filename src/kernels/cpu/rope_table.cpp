// rope_table of rope.h on the CPU.
#include <cmath>

#include "kernels/cpu/ops.h"

namespace chorale::cpu {

void rope_table(const Stream& stream, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin) {
  const int64_t half = cos_sin.columns() / 2;
  const float* frequency = frequencies.data<float>();
  stream.pool().parallel(cos_sin.rows(), [&](int64_t t) {
    const auto position = static_cast<float>(positions.data<int32_t>()[t]);
    float* row = cos_sin.row<float>(t);
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to float32 as transformers does, or long contexts would drift away from the
      // reference.
      const double angle = position * frequency[i];
      row[i] = static_cast<float>(std::cos(angle)) * scale;
      row[half + i] = static_cast<float>(std::sin(angle)) * scale;
    }
  });
}

}  // namespace chorale::cpu
