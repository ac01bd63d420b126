#include "kernels/ref/rows.h"

#include <cmath>

namespace chorale::ref {

Matrix gather_rows(std::span<const int32_t> rows, const Matrix& x) {
  Matrix out(static_cast<int64_t>(rows.size()), x.columns);
  for (int64_t m = 0; m < out.rows; ++m) {
    for (int64_t c = 0; c < x.columns; ++c) out.at(m, c) = x.at(rows[static_cast<size_t>(m)], c);
  }
  return out;
}

Dense<double> rms_norm(const Matrix& x, const Matrix& weight, float eps) {
  Dense<double> out(x.rows, x.columns);
  for (int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (int64_t c = 0; c < x.columns; ++c) squares += double{x.at(t, c)} * double{x.at(t, c)};
    const double rms = std::sqrt(squares / static_cast<double>(x.columns) + double{eps});
    for (int64_t c = 0; c < x.columns; ++c) out.at(t, c) = x.at(t, c) / rms * double{weight.at(0, c)};
  }
  return out;
}

}  // namespace chorale::ref
