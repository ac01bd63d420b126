#include "kernels/ref/gemm.h"

namespace chorale::ref {

Dense<double> gemm(const Matrix& a, bool a_transposed, const Matrix& b, bool b_transposed) {
  const int64_t k = a_transposed ? a.rows : a.columns;
  Dense<double> out(a_transposed ? a.columns : a.rows, b_transposed ? b.rows : b.columns);
  for (int64_t m = 0; m < out.rows; ++m) {
    for (int64_t i = 0; i < k; ++i) {
      const double left = double{a_transposed ? a.at(i, m) : a.at(m, i)};
      for (int64_t n = 0; n < out.columns; ++n)
        out.at(m, n) += left * double{b_transposed ? b.at(n, i) : b.at(i, n)};
    }
  }
  return out;
}

}  // namespace chorale::ref
