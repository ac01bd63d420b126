// What the dispatch files check before a backend sees raw memory: a mismatch is a programmer's fault.
#pragma once

#include "base/tensor.h"

namespace chorale {

inline bool is_activation(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f32;
}

inline void check_matrix(const Tensor& tensor, DType dtype, int64_t rows, int64_t columns, const char* name) {
  CHORALE_CHECK(tensor.dtype() == dtype && tensor.rows() == rows && tensor.columns() == columns,
                "{}: expected {} [{}, {}], found {} [{}, {}]", name, name_of(dtype), rows, columns,
                name_of(tensor.dtype()), tensor.rows(), tensor.columns());
}

// A vector [1, at least `columns`].
inline void check_vector(const Tensor& tensor, DType dtype, int64_t columns, const char* name) {
  CHORALE_CHECK(tensor.dtype() == dtype && tensor.rows() == 1 && tensor.columns() >= columns,
                "{}: expected {} [1, {}], found {} [{}, {}]", name, name_of(dtype), columns,
                name_of(tensor.dtype()), tensor.rows(), tensor.columns());
}

}  // namespace chorale
