#include "kernels/ref/rope.h"

#include <cmath>

namespace chorale::ref {

Dense<double> rope_table(std::span<const int32_t> positions, std::span<const float> frequencies,
                         float scale) {
  const auto half = static_cast<int64_t>(frequencies.size());
  Dense<double> table(static_cast<int64_t>(positions.size()), 2 * half);
  for (int64_t t = 0; t < table.rows; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle =
          static_cast<float>(positions[static_cast<size_t>(t)]) * frequencies[static_cast<size_t>(i)];
      table.at(t, i) = scale * std::cos(double{angle});
      table.at(t, half + i) = scale * std::sin(double{angle});
    }
  }
  return table;
}

Dense<double> norm_rope(const Matrix& x, const Matrix& weight, float eps, const Matrix& cos_sin) {
  const int64_t head_dim = weight.columns;
  const int64_t half = head_dim / 2;
  Dense<double> out(x.rows, x.columns);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t head = 0; head < x.columns; head += head_dim) {
      double squares = 0;
      for (int64_t d = 0; d < head_dim; ++d) squares += double{x.at(t, head + d)} * double{x.at(t, head + d)};
      const double rms = std::sqrt(squares / static_cast<double>(head_dim) + double{eps});
      for (int64_t i = 0; i < half; ++i) {
        const double a = x.at(t, head + i) / rms * double{weight.at(0, i)};
        const double b = x.at(t, head + half + i) / rms * double{weight.at(0, half + i)};
        const double cosine = cos_sin.at(t, i);
        const double sine = cos_sin.at(t, half + i);
        out.at(t, head + i) = a * cosine - b * sine;
        out.at(t, head + half + i) = b * cosine + a * sine;
      }
    }
  }
  return out;
}

}  // namespace chorale::ref
