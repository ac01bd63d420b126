// The ops that a GPU has today, but for matrix products and attention. Each is that of the same name in
// kernels/*.h, with a queue in place of the stream and tensors in device memory; it returns before it has
// run. Arguments have been checked by the caller as the dispatch files of kernels/ do. Bits depend on a row's
// own values alone, and an op that is exact on the CPU is exact here.
#pragma once

#include "base/tensor.h"
#include "kernels/cuda/runtime.h"
#include "kernels/dispatch.h"
#include "kernels/route.h"

namespace chorale::cuda {

// rows.h. An id that the table does not have gives a row of NaN, since a kernel cannot stop the program; ids
// and row numbers are checked where they are uploaded.
void embed(const Queue& queue, const Tensor& ids, const Tensor& table, const Tensor& out);
void embed_bits(const Queue& queue, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits);
void bits_to_rows(const Queue& queue, const Tensor& bits, const Tensor& out);
void copy_rows(const Queue& queue, const Tensor& x, const Tensor& out);
void gather_rows(const Queue& queue, const Tensor& rows, const Tensor& x, const Tensor& out);

// The order of a row's sum: norm_order.h.
void rms_norm(const Queue& queue, const Tensor& x, const Tensor& weight, float eps, const Tensor& out);

// rope.h.
void rope_table(const Queue& queue, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin);
void norm_rope(const Queue& queue, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out);

// route.h; E and k up to the limits of route_limits.h.
void choose_experts(const Queue& queue, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen);
void sort_by_expert(const Queue& queue, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts = {});

// choose_experts, sort_by_expert and, unless counts are empty, count_experts; the same bits as these three.
// One kernel for up to 32 tokens. All experts are here.
void route(const Queue& queue, const Tensor& logits, const RouteOptions& options, const ChosenExperts& chosen,
           const ExpertRows& rows, const Tensor& counts);

// dispatch.h. An expert that has no count is left out, and so are rows for which there is no room.
void dispatch_rows(const Queue& queue, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send);
void add_returned(const Queue& queue, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums);
void count_experts(const Queue& queue, const Tensor& experts, const Tensor& counts);
void count_tokens(const Queue& queue, int64_t num_tokens, const Tensor& counts);

// fixed_point.h.
void clear_sums(const Queue& queue, const Tensor& sums);
void add_sums(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual);

// add_sums, then rms_norm of the residual, then clear_sums, in one kernel; the same bits as these three.
void add_sums_norm(const Queue& queue, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const Tensor& weight, float eps, const Tensor& out);

}  // namespace chorale::cuda
