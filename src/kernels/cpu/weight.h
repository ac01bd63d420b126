// From packed matrices and tensors to the raw arguments of the CPU kernels.
#pragma once

#include "base/tensor.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/quantize.h"

namespace chorale::cpu {

// Bytes of one chunk in a row of the matrix's input.
inline int64_t row_bytes_of_chunk(const WeightLayout& layout) {
  if (is_quantized(layout.format)) return quantized_row_bytes(layout) / layout.k_chunks;
  return layout.chunk_k() * static_cast<int64_t>(size_of(element_dtype(layout.format)));
}

inline Weight to_weight(const WeightLayout& shape, const std::byte* data) {
  const PackedLayout layout(shape);
  return {.data = data,
          .format = layout.format,
          .n = layout.chunk_n(),
          .k_words = layout.chunk_k_words(),
          .group_words = is_quantized(layout.format) ? layout.group_words() : 0,
          .k_bytes = row_bytes_of_chunk(layout),
          .chunks = layout.num_chunks(),
          .panels = layout.panels_per_chunk(),
          .strides = layout.strides()};
}

// The memory of bf16 or float32 activations, or of quantized rows, and the distance of two rows.
inline const std::byte* bytes_of(const Tensor& t) {
  if (t.dtype() == DType::u8) return t.bytes();
  return t.dtype() == DType::bf16 ? reinterpret_cast<const std::byte*>(t.data<bf16>())
                                  : reinterpret_cast<const std::byte*>(t.data<float>());
}
inline std::byte* mutable_bytes_of(const Tensor& t) {
  return t.dtype() == DType::bf16 ? reinterpret_cast<std::byte*>(t.data<bf16>())
                                  : reinterpret_cast<std::byte*>(t.data<float>());
}
inline int64_t stride_bytes(const Tensor& t) {
  return t.row_stride() * static_cast<int64_t>(size_of(t.dtype()));
}

inline RowArgs row_args(const Tensor& x, const Tensor& out) {
  return {.x = x.data<float>(),
          .x_stride = x.row_stride(),
          .rows = x.rows(),
          .columns = x.columns(),
          .out = mutable_bytes_of(out),
          .out_stride = out.row_stride(),
          .out_is_bf16 = out.dtype() == DType::bf16};
}

}  // namespace chorale::cpu
