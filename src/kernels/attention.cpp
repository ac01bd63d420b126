#include "kernels/attention.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/weight.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

cpu::KvFormat format_of(DType dtype) {
  if (dtype == DType::i8) return cpu::KvFormat::i8;
  return dtype == DType::bf16 ? cpu::KvFormat::bf16 : cpu::KvFormat::f32;
}

cpu::KvArgs to_args(const KvCacheView& cache, const AttentionBatch& batch, const Tensor& q_or_k) {
  const KvLayout& layout = cache.layout;
  CHORALE_CHECK(q_or_k.dtype() == layout.activation_dtype(), "{} for a cache of {}", name_of(q_or_k.dtype()),
                name_of(layout.dtype));
  CHORALE_CHECK(layout.head_dim <= layout.max_head_dim(), "head_dim {}", layout.head_dim);
  check_matrix(batch.segments, DType::i32, batch.segments.rows(), SegmentColumn::count, "segments");
  CHORALE_CHECK(batch.segments.row_stride() == SegmentColumn::count, "segments must be dense");
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

// Each key and value that a segment sees is read once; a token attends to its own position and all before it.
void add_work(OpScope& scope, const cpu::KvArgs& kv, int64_t num_heads) {
  for (int64_t c = 0; c < kv.num_segments; ++c) {
    const int32_t* segment = kv.segments + c * SegmentColumn::count;
    const double tokens = segment[SegmentColumn::num_tokens], before = segment[SegmentColumn::first_position];
    const auto head_bytes = static_cast<double>(kv.head_bytes) / kKvBlockTokens;
    const double pairs = tokens * before + tokens * (tokens + 1) / 2;
    scope.add_work((before + tokens) * static_cast<double>(kv.num_kv_heads) * head_bytes,
                   4.0 * pairs * static_cast<double>(num_heads * kv.head_dim));
  }
}

}  // namespace

void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache) {
  const OpScope scope(stream.profile(), "append_kv");
  const int64_t columns = cache.layout.num_kv_heads * cache.layout.head_dim;
  check_matrix(k, cache.layout.activation_dtype(), k.rows(), columns, "k");
  check_matrix(v, DType::f32, k.rows(), columns, "v");
  if (k.empty()) return;
  const cpu::AppendKvArgs args{.kv = to_args(cache, batch, k),
                               .k = cpu::bytes_of(k),
                               .k_stride_bytes = cpu::stride_bytes(k),
                               .v = v.data<float>(),
                               .v_stride = v.row_stride()};
  cpu::kernels_for(stream.instruction_set()).append_kv(stream.pool(), args);
}

void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               int64_t num_heads, const Tensor& out) {
  OpScope scope(stream.profile(), "attention");
  CHORALE_CHECK(num_heads % cache.layout.num_kv_heads == 0, "{} heads over {} KV heads", num_heads,
                cache.layout.num_kv_heads);
  const DType activations = cache.layout.activation_dtype();
  check_matrix(q, activations, q.rows(), num_heads * cache.layout.head_dim, "q");
  check_matrix(out, activations, q.rows(), q.columns(), "out");
  if (q.empty()) return;
  const cpu::AttentionArgs args{.kv = to_args(cache, batch, q),
                                .num_heads = num_heads,
                                .longest_segment = batch.longest_segment,
                                .q = cpu::bytes_of(q),
                                .q_stride_bytes = cpu::stride_bytes(q),
                                .out = cpu::mutable_bytes_of(out),
                                .out_stride = out.row_stride()};
  if (scope.is_recording()) add_work(scope, args.kv, num_heads);
  cpu::kernels_for(stream.instruction_set()).attention(stream.pool(), args);
}

}  // namespace chorale
