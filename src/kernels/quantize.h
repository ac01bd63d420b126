// Activations for matrices of the formats int8 and int4: a row is cut into the matrix's groups of inputs, and
// each becomes signed 8-bit integers with a scale of their own.
//
//   row     [chunk][group]{ float32 scale, int32 sum of the integers, G integers of 8 bits }
//   scale = max |x| / 127, q = round(x * (127 / max |x|)) to nearest even
//
// What a row becomes depends on the row and the layout alone, and a group on its own elements alone, so the
// bits are the same for any batch, and for any rank that has the chunk. A group with a value that is NaN or
// infinite gets the scale NaN; one whose values are all below 2^-100, the scale 0.
//
// The product of a row with an output is the sum over groups, in their order, of
//   fma((dot - zero * sum) * weight_scale, scale, earlier groups)
// where dot, the sum of products of integers, is exact, and dot - zero * sum too where the zero is an integer
// (int8, and the int4 of checkpoints); else it is rounded once, or twice without fused multiply-add.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/weight_matrix.h"

namespace chorale {

// Bytes of a quantized row for all chunks of the matrix.
int64_t quantized_row_bytes(const WeightLayout& layout);

// x: activations [M, K]; layout: of a matrix with K inputs, int8 or int4; out: uint8 [M,
// quantized_row_bytes(layout)].
void quantize_rows(const Stream& stream, const Tensor& x, const WeightLayout& layout, const Tensor& out);

}  // namespace chorale
