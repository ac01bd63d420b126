#include "kernels/weight_matrix.h"

#include <numeric>

#include "base/error.h"
#include "kernels/quantized_group.h"

namespace chorale {

WeightFormat plain_format(DType dtype) {
  CHORALE_CHECK(dtype == DType::bf16 || dtype == DType::f32, "matrices of {}", name_of(dtype));
  return dtype == DType::bf16 ? WeightFormat::bf16 : WeightFormat::f32;
}

DType element_dtype(WeightFormat format) {
  return format == WeightFormat::bf16 ? DType::bf16 : DType::f32;
}

int64_t choose_group(WeightFormat format, int64_t chunk_k, int64_t source_group) {
  if (!is_quantized(format)) return 0;
  const int64_t most = format == WeightFormat::int8 ? kMaxInt8Group : kMaxInt4Group;
  if (source_group > 0) {
    // Groups that divide both the chunk and the source's groups.
    int64_t group = std::gcd(chunk_k, source_group);
    while (group > most && group % 2 == 0) group /= 2;
    CHORALE_CHECK(group % kGroupUnit == 0 && group <= most, "groups of {} in chunks of {}", source_group,
                  chunk_k);
    return group;
  }
  const int64_t groups = (chunk_k + most - 1) / most;
  return ((chunk_k + groups - 1) / groups + kGroupUnit - 1) / kGroupUnit * kGroupUnit;
}

WeightLayout slice_layout(const WeightLayout& layout, int64_t count) {
  WeightLayout slice = layout;
  const bool split_n = layout.splits_n();
  const int64_t chunks = split_n ? layout.n_chunks : layout.k_chunks;
  CHORALE_CHECK(count >= 1 && count <= chunks, "{} chunks of {}", count, chunks);
  (split_n ? slice.n_chunks : slice.k_chunks) = count;
  (split_n ? slice.n : slice.k) = count * (split_n ? layout.chunk_n() : layout.chunk_k());
  slice.first_k_chunk = slice.stored_k_chunks = 0;
  return slice;
}

WeightLayout slice_in_place(const WeightLayout& layout, int64_t first, int64_t count) {
  const int64_t chunks = layout.num_chunks();
  CHORALE_CHECK(first >= 0 && first + count <= chunks, "chunks {} to {} of {}", first, first + count, chunks);
  WeightLayout slice = slice_layout(layout, count);
  if (layout.n_chunks == 1) {
    slice.first_k_chunk = layout.first_k_chunk + first;
    slice.stored_k_chunks = layout.all_k_chunks();
  }
  return slice;
}

}  // namespace chorale
