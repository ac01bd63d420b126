// Reference of kernels/gemm.h.
#pragma once

#include "kernels/ref/dense.h"

namespace chorale::ref {

// a * b, either of which may be stored transposed. a: [M, K] or [K, M]; b: [K, N] or [N, K].
Dense<double> gemm(const Matrix& a, bool a_transposed, const Matrix& b, bool b_transposed);

}  // namespace chorale::ref
