// quantize.h on the CPU; quantize.inl has its kernel.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/weight.h"

namespace chorale::cpu {

void quantize_rows(const Stream& stream, const Tensor& x, const WeightLayout& layout, const Tensor& out) {
  kernels_for(stream.instruction_set())
      .quantize_rows(stream.pool(), {.x = bytes_of(x),
                                     .x_stride_bytes = stride_bytes(x),
                                     .x_is_bf16 = x.dtype() == DType::bf16,
                                     .rows = x.rows(),
                                     .chunks = layout.k_chunks,
                                     .chunk_k = layout.chunk_k(),
                                     .group_k = layout.group_k,
                                     .out = out.bytes(),
                                     .out_stride = out.row_stride()});
}

}  // namespace chorale::cpu
