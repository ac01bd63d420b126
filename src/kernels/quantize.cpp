#include "kernels/quantize.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

int64_t quantized_row_bytes(const WeightLayout& layout) {
  return layout.k_chunks * layout.groups_per_chunk() * (kGroupHeaderBytes + layout.group_k);
}

void quantize_rows(const Stream& stream, const Tensor& x, const WeightLayout& layout, const Tensor& out) {
  const OpScope scope(stream.profile(), "quantize_rows");
  CHORALE_CHECK(is_activation(x.dtype()) && is_quantized(layout.format) && x.columns() == layout.k);
  check_matrix(out, DType::u8, x.rows(), quantized_row_bytes(layout), "out");
  if (x.empty()) return;
  backend_of(stream).quantize_rows(stream, x, layout, out);
}

}  // namespace chorale
