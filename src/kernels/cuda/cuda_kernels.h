// The ops that a GPU has today, but for matrix products and attention. Each is that of the same name in
// kernels/*.h, with a queue in place of the stream and tensors in device memory; it returns before it has
// run. Arguments have been checked by the caller as the dispatch files of kernels/ do. Bits depend on a row's
// own values alone, and an op that is exact on the CPU is exact here.
#pragma once

#include "base/tensor.h"
#include "kernels/cuda/runtime.h"

namespace chorale::cuda {

// rows.h. An id that the table does not have gives a row of NaN, since a kernel cannot stop the program; ids
// and row numbers are checked where they are uploaded.
void embed(const Queue& queue, const Tensor& ids, const Tensor& table, const Tensor& out);
void embed_bits(const Queue& queue, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits);
void bits_to_rows(const Queue& queue, const Tensor& bits, const Tensor& out);
void copy_rows(const Queue& queue, const Tensor& x, const Tensor& out);
void gather_rows(const Queue& queue, const Tensor& rows, const Tensor& x, const Tensor& out);

// fixed_point.h.
void clear_sums(const Queue& queue, const Tensor& sums);
void add_sums(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual);

}  // namespace chorale::cuda
