#include "kernels/ref/matmul.h"

namespace chorale::ref {

Dense<double> matmul(const Matrix& x, const Matrix& weight, const Matrix& bias) {
  Dense<double> out(x.rows, weight.rows);
  for (int64_t m = 0; m < x.rows; ++m) {
    for (int64_t n = 0; n < weight.rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < x.columns; ++k) sum += double{x.at(m, k)} * double{weight.at(n, k)};
      out.at(m, n) = bias.empty() ? sum : sum + double{bias.at(0, n)};
    }
  }
  return out;
}

}  // namespace chorale::ref
