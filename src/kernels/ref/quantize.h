// Reference of kernels/quantize.h.
#pragma once

#include "kernels/ref/dense.h"

namespace chorale::ref {

// Rows of whole groups: a chunk's last group is filled up with zeros.
struct QuantizedRows {
  Dense<int8_t> values;  // [M, groups * group_k]
  Matrix scales;         // [M, groups]
  Dense<int32_t> sums;   // [M, groups]
};

// x: [M, K] in k_chunks equal chunks.
QuantizedRows quantize(const Matrix& x, int64_t k_chunks, int64_t group_k);

// What quantized rows stand for: [M, K].
Matrix dequantize(const QuantizedRows& rows, int64_t columns, int64_t k_chunks, int64_t group_k);

}  // namespace chorale::ref
