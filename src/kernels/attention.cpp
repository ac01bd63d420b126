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

cpu::AttentionArgs to_args(const KvCacheView& cache, const AttentionBatch& batch, const Tensor& q_or_k) {
  const KvLayout& layout = cache.layout;
  CHORALE_CHECK(q_or_k.dtype() == layout.activation_dtype(), "{} for a cache of {}", name_of(q_or_k.dtype()),
                name_of(layout.dtype));
  CHORALE_CHECK(layout.head_dim <= layout.max_head_dim(), "head_dim {}", layout.head_dim);
  check_matrix(batch.chunks, DType::i32, batch.chunks.rows(), ChunkColumn::count, "chunks");
  CHORALE_CHECK(batch.chunks.row_stride() == ChunkColumn::count, "chunks must be dense");
  return {.format = format_of(layout.dtype),
          .num_heads = layout.num_kv_heads,
          .num_kv_heads = layout.num_kv_heads,
          .head_dim = layout.head_dim,
          .key_bytes = layout.key_bytes(),
          .value_bytes = layout.value_bytes(),
          .head_bytes = layout.head_bytes(),
          .cache = cache.data,
          .chunks = batch.chunks.data<int32_t>(),
          .num_chunks = batch.chunks.rows(),
          .longest_chunk = batch.longest_chunk,
          .block_tables = batch.block_tables.data<int32_t>(),
          .q_or_k = cpu::bytes_of(q_or_k),
          .q_or_k_stride_bytes = cpu::stride_bytes(q_or_k),
          .v = nullptr,
          .v_stride = 0,
          .out = nullptr,
          .out_stride = 0};
}

// Each key and value that a chunk sees is read once; a token attends to its own position and all before it.
void add_work(OpScope& scope, const cpu::AttentionArgs& args) {
  for (int64_t c = 0; c < args.num_chunks; ++c) {
    const int32_t* chunk = args.chunks + c * ChunkColumn::count;
    const double tokens = chunk[ChunkColumn::num_tokens], before = chunk[ChunkColumn::first_position];
    const auto head_bytes = static_cast<double>(args.head_bytes) / kKvBlockTokens;
    const double pairs = tokens * before + tokens * (tokens + 1) / 2;
    scope.add_work((before + tokens) * static_cast<double>(args.num_kv_heads) * head_bytes,
                   4.0 * pairs * static_cast<double>(args.num_heads * args.head_dim));
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
  cpu::AttentionArgs args = to_args(cache, batch, k);
  args.v = v.data<float>();
  args.v_stride = v.row_stride();
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
  cpu::AttentionArgs args = to_args(cache, batch, q);
  args.num_heads = num_heads;
  args.out = cpu::mutable_bytes_of(out);
  args.out_stride = out.row_stride();
  if (scope.is_recording()) add_work(scope, args);
  cpu::kernels_for(stream.instruction_set()).attention(stream.pool(), args);
}

}  // namespace chorale
