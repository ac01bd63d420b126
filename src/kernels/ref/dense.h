// What the references compute with: plain row-major matrices without padding.
//
// The references say what the ops of src/kernels/*.h mean, in the plainest way: naive loops in double
// precision (exact integers for fixed point), one thread, no packed weights, no paged cache. Tests use them,
// and the reference device (kernels/ref_device).
#pragma once

#include <cstdint>
#include <vector>

#include "base/float16.h"
#include "base/tensor.h"

namespace chorale::ref {

template <typename T>
struct Dense {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<T> values;  // row-major

  Dense() = default;
  Dense(int64_t num_rows, int64_t num_columns)
      : rows(num_rows), columns(num_columns), values(static_cast<size_t>(num_rows * num_columns)) {}
  T& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * columns + c)]; }
  const T& at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * columns + c)]; }
  bool empty() const { return values.empty(); }
};

// Values that lie in memory as float32 or bf16, widened to float32. A matrix that stands for bf16 storage
// holds only values that bf16 has.
using Matrix = Dense<float>;

inline Matrix to_matrix(const Tensor& tensor) {
  Matrix matrix(tensor.rows(), tensor.columns());
  for (int64_t r = 0; r < tensor.rows(); ++r) {
    for (int64_t c = 0; c < tensor.columns(); ++c)
      matrix.at(r, c) =
          tensor.dtype() == DType::bf16 ? to_float(tensor.row<bf16>(r)[c]) : tensor.row<float>(r)[c];
  }
  return matrix;
}

}  // namespace chorale::ref
