#include "kernels/quantize.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/weight.h"
#include "kernels/tensor_checks.h"

namespace chorale {

int64_t quantized_row_bytes(const PackedLayout& layout) {
  return layout.k_chunks * cpu::row_bytes_of_chunk(layout);
}

void quantize_rows(const Stream& stream, const Tensor& x, const PackedLayout& layout, const Tensor& out) {
  const OpScope scope(stream.profile(), "quantize_rows");
  CHORALE_CHECK(is_activation(x.dtype()) && is_quantized(layout.format) && x.columns() == layout.k);
  check_matrix(out, DType::u8, x.rows(), quantized_row_bytes(layout), "out");
  if (x.empty()) return;
  cpu::kernels_for(stream.instruction_set())
      .quantize_rows(stream.pool(), {.x = cpu::bytes_of(x),
                                     .x_stride_bytes = cpu::stride_bytes(x),
                                     .x_is_bf16 = x.dtype() == DType::bf16,
                                     .rows = x.rows(),
                                     .chunks = layout.k_chunks,
                                     .chunk_k = layout.chunk_k(),
                                     .group_k = layout.group_k,
                                     .out = out.bytes(),
                                     .out_stride = out.row_stride()});
}

}  // namespace chorale
