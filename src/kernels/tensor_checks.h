// What the dispatch files check before a backend sees raw memory: a mismatch is a programmer's fault.
#pragma once

#include "base/tensor.h"
#include "kernels/quantize.h"

namespace chorale {

inline bool is_activation(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f32;
}

// The input of a product: activations of the matrix's dtype, or rows that are quantized for it.
inline void check_input(const Tensor& x, const WeightLayout& layout) {
  const bool quantized = is_quantized(layout.format);
  const DType dtype = quantized ? DType::u8 : element_dtype(layout.format);
  const int64_t columns = quantized ? quantized_row_bytes(layout) : layout.k;
  CHORALE_CHECK(x.dtype() == dtype && x.columns() == columns, "input: expected {} [., {}], found {} [{}, {}]",
                name_of(dtype), columns, name_of(x.dtype()), x.rows(), x.columns());
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
