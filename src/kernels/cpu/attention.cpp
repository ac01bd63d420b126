// attention.h on the CPU; attention.inl has its kernels.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/kv_panels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/weight.h"

namespace chorale::cpu {
namespace {

KvFormat format_of(DType dtype) {
  if (dtype == DType::i8) return KvFormat::i8;
  return dtype == DType::bf16 ? KvFormat::bf16 : KvFormat::f32;
}

KvArgs kv_args(const KvCacheView& cache, const AttentionBatch& batch) {
  const KvPanels layout(cache.layout);
  return {.format = format_of(layout.dtype),
          .num_kv_heads = layout.num_kv_heads,
          .head_dim = layout.head_dim,
          .key_bytes = layout.key_bytes(),
          .value_bytes = layout.value_bytes(),
          .head_bytes = layout.head_bytes(),
          .cache = cache.data,
          .segments = batch.segments.data<int32_t>(),
          .num_segments = batch.segments.rows(),
          .block_tables = batch.block_tables.data<int32_t>()};
}

}  // namespace

void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache) {
  const AppendKvArgs args{.kv = kv_args(cache, batch),
                          .k = bytes_of(k),
                          .k_stride_bytes = stride_bytes(k),
                          .v = v.data<float>(),
                          .v_stride = v.row_stride()};
  kernels_for(stream.instruction_set()).append_kv(stream.pool(), args);
}

void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               const Tensor& /*scratch*/, const Tensor& out) {
  const AttentionArgs args{.kv = kv_args(cache, batch),
                           .num_heads = q.columns() / cache.layout.head_dim,
                           .longest_segment = batch.longest_segment,
                           .q = bytes_of(q),
                           .q_stride_bytes = stride_bytes(q),
                           .out = mutable_bytes_of(out),
                           .out_stride = out.row_stride()};
  kernels_for(stream.instruction_set()).attention(stream.pool(), args);
}

}  // namespace chorale::cpu
