// Reference of kernels/attention.h, over plain histories in place of a paged cache.
#pragma once

#include "kernels/ref/dense.h"

namespace chorale::ref {

struct AttentionShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
};

// out = softmax(q k^T / sqrt(D)) v for each row of q over the tokens at or before its position, which are
// first_position, first_position + 1, ... of one sequence. q: [rows, Q * D]; keys, values: [tokens, KV * D],
// of the sequence from position 0 on.
Dense<double> attention(const AttentionShape& shape, const Matrix& q, int64_t first_position,
                        const Matrix& keys, const Matrix& values);

// What an int8 cache keeps of keys or values [tokens, KV * D].
struct QuantizedHeads {
  Dense<int8_t> values;  // [tokens, KV * D]
  Matrix scales;         // [tokens, KV]
};
QuantizedHeads quantize_heads(const Matrix& heads, int64_t head_dim);

}  // namespace chorale::ref
