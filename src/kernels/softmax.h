// Softmax of whole rows, for fitting weights; attention.h has its own, which never sees a whole row.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// Each row of logits becomes its softmax: e^(x - maximum) over the sum of these. float32 [M, N]; a row must
// have a finite maximum. A row's sum runs over 16 lanes in order of the columns and then over the lanes.
void softmax_rows(const Stream& stream, const Tensor& logits);

}  // namespace chorale
