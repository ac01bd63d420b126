#include "kernels/attention.h"

#include "base/copy.h"
#include "kernels/backend.h"
#include "kernels/rope.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

void check(const KvCacheView& cache, const AttentionBatch& batch, const Tensor& q_or_k) {
  const KvLayout& layout = cache.layout;
  CHORALE_CHECK(q_or_k.dtype() == layout.activation_dtype(), "{} for a cache of {}", name_of(q_or_k.dtype()),
                name_of(layout.dtype));
  CHORALE_CHECK(layout.head_dim <= layout.max_head_dim(), "head_dim {}", layout.head_dim);
  check_matrix(batch.segments, DType::i32, batch.segments.rows(), SegmentColumn::count, "segments");
  CHORALE_CHECK(batch.segments.row_stride() == SegmentColumn::count, "segments must be dense");
}

// Each key and value that a segment sees is read once; a token attends to its own position and all before it.
void add_work(OpScope& scope, const Stream& stream, const KvCacheView& cache, const AttentionBatch& batch,
              int64_t num_heads) {
  const KvLayout& layout = cache.layout;
  const Backend& backend = backend_of(stream);
  const double token_bytes =
      static_cast<double>(backend.kv_block_bytes(layout)) / static_cast<double>(backend.kv_block_tokens);
  const std::vector<int32_t> segments = download<int32_t>(stream, batch.segments);
  for (size_t s = 0; s < segments.size(); s += SegmentColumn::count) {
    const int32_t* segment = &segments[s];
    const double tokens = segment[SegmentColumn::num_tokens], before = segment[SegmentColumn::first_position];
    const double pairs = tokens * before + tokens * (tokens + 1) / 2;
    scope.add_work((before + tokens) * token_bytes,
                   4.0 * pairs * static_cast<double>(num_heads * layout.head_dim));
  }
  scope.begin_again();
}

}  // namespace

void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache) {
  const OpScope scope(stream.profile(), "append_kv");
  const int64_t columns = cache.layout.num_kv_heads * cache.layout.head_dim;
  check_matrix(k, cache.layout.activation_dtype(), k.rows(), columns, "k");
  check_matrix(v, DType::f32, k.rows(), columns, "v");
  if (k.empty()) return;
  check(cache, batch, k);
  backend_of(stream).append_kv(stream, k, v, batch, cache);
}

void norm_rope_append(const Stream& stream, const QkvRows& rows, const HeadNorms& norms,
                      const RotatedRows& rotated, const AttentionBatch& batch, const KvCacheView& cache) {
  const Backend& backend = backend_of(stream);
  if (backend.norm_rope_append != nullptr) {
    const OpScope scope(stream.profile(), "norm_rope_append");
    if (backend.norm_rope_append(stream, rows, norms, rotated, batch, cache)) return;
  }
  norm_rope(stream, rows.q, norms.q_weight, norms.eps, norms.cos_sin, rotated.q);
  norm_rope(stream, rows.k, norms.k_weight, norms.eps, norms.cos_sin, rotated.k);
  append_kv(stream, rotated.k, rows.v, batch, cache);
}

void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               const Tensor& scratch, const Tensor& out) {
  OpScope scope(stream.profile(), "attention");
  const int64_t num_heads = q.columns() / cache.layout.head_dim;
  CHORALE_CHECK(num_heads % cache.layout.num_kv_heads == 0, "{} heads over {} KV heads", num_heads,
                cache.layout.num_kv_heads);
  CHORALE_CHECK(
      scratch.columns() >= backend_of(stream).attention_scratch(cache.layout, batch.block_tables.columns()),
      "scratch of {}", scratch.columns());
  const DType activations = cache.layout.activation_dtype();
  check_matrix(q, activations, q.rows(), num_heads * cache.layout.head_dim, "q");
  check_matrix(out, activations, q.rows(), q.columns(), "out");
  if (q.empty()) return;
  check(cache, batch, q);
  if (scope.is_recording()) add_work(scope, stream, cache, batch, num_heads);
  backend_of(stream).attention(stream, q, cache, batch, scratch, out);
}

}  // namespace chorale
