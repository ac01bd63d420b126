#include "kernels/backend.h"

#include <array>

#include "base/error.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/sample.h"

namespace chorale::cuda {
namespace {

const Queue& queue_of(const Stream& stream) {
  return static_cast<const Queue&>(stream.queue());
}

TiledLayout tiled(const WeightLayout& layout) {
  CHORALE_CHECK(layout.all_k_chunks() == layout.k_chunks, "a slice of inputs on a GPU");
  return {.n = layout.n,
          .k = layout.k,
          .k_chunks = layout.k_chunks,
          .fused_pair = layout.fused_pair,
          .dtype = element_dtype(layout.format)};
}

KvTiles tiles_of(const KvLayout& layout) {
  return {.num_kv_heads = layout.num_kv_heads, .head_dim = layout.head_dim, .dtype = layout.dtype};
}

KvTilesView view_of(const KvCacheView& cache) {
  return {tiles_of(cache.layout), cache.data, cache.num_blocks};
}

// Experts lie at equal distances, as they are loaded.
TiledExperts experts_of(const ExpertMatrices& experts) {
  const auto count = std::ssize(experts.data);
  TiledExperts tiles{.layout = tiled(experts.layout), .data = experts.data[0], .count = count};
  if (count > 1) tiles.stride = experts.data[1] - experts.data[0];
  for (int64_t e = 1; e < count; ++e) {
    CHORALE_CHECK(experts.data[static_cast<size_t>(e)] == tiles.data + e * tiles.stride, "expert {} of {}", e,
                  count);
  }
  return tiles;
}

// ---- layouts ----

int64_t kv_block_bytes(const KvLayout& layout) {
  return tiles_of(layout).block_bytes();
}
int64_t attention_scratch(const KvLayout& layout, int64_t table_blocks) {
  return attention_scratch_floats(tiles_of(layout), table_blocks);
}
int64_t partials_scratch(const WeightLayout& down, int64_t rows, int64_t num_tokens) {
  const TiledLayout layout = tiled(down);
  const bool keeps = layout.has_tiles() && layout.k_chunks == 1 && adds_partials(layout.n);
  return keeps ? partials_scratch_floats(rows, num_tokens, layout.n) : 0;
}
int64_t weight_bytes(const WeightLayout& layout) {
  return tiled(layout).bytes();
}
int64_t output_chunk_offset(const WeightLayout& layout, int64_t first) {
  const TiledLayout tiles = tiled(layout);
  const int64_t output = first * layout.chunk_n();
  const int64_t row = tiles.stored_row(output, 0);
  CHORALE_CHECK(row % kTile == 0, "a slice from output {} on", output);
  return tiles.has_tiles() ? row / kTile * tiles.k_tiles() * kTileBytes
                           : row * tiles.k * static_cast<int64_t>(sizeof(float));
}
void pack_rows(const Stream& stream, const Tensor& rows, const WeightLayout& layout, std::byte* target,
               const MatrixRegion& region) {
  pack_rows(queue_of(stream), rows, tiled(layout), target,
            {.first_row = region.first_row, .first_column = region.first_column, .half = region.half});
}

// ---- ops ----

void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets) {
  std::array<TiledTarget, kMaxMatmulTargets> tiles;
  for (size_t t = 0; t < targets.size(); ++t) {
    const MatmulTarget& target = targets[t];
    tiles[t] = {
        .weight = {tiled(target.weight.layout), target.weight.data}, .bias = target.bias, .out = target.out};
  }
  matmul(queue_of(stream), x, std::span(tiles).first(targets.size()));
}

void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out) {
  gated_matmul(queue_of(stream), x, experts_of(gate_up), rows, out);
}

void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode) {
  const Queue& queue = queue_of(stream);
  const bool is_zero = queue.is_zero(sums) || mode == SumMode::add_to_zeros;
  order_free_matmul(queue, x, experts_of(down), rows, sums, {.mode = mode, .is_zero = is_zero});
}

PartialSums order_free_partials(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                                const ExpertRows& rows, int64_t num_tokens) {
  return order_free_partials(queue_of(stream), x, experts_of(down), rows, num_tokens);
}

void add_partials(const Stream& stream, const PartialSums& partials, const Tensor& sums) {
  const Queue& queue = queue_of(stream);
  queue.is_zero(sums);  // not any more
  add_partials(queue, partials, sums, SumMode::assign);
}

void clear_sums(const Stream& stream, const Tensor& sums) {
  const Queue& queue = queue_of(stream);
  if (!queue.is_zero(sums)) clear_sums(queue, sums);
}

void embed_bits(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits) {
  const Queue& queue = queue_of(stream);
  queue.is_zero(bits);  // not any more
  embed_bits(queue, ids, table, first_row, bits);
}

// Leaves the sums as zero, as the kernel does.
void add_sums_norm(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                   const NormWeight& norm, const Tensor& out) {
  const Queue& queue = queue_of(stream);
  add_sums_norm(queue, sums, bias, residual, norm.weight, norm.eps, out);
  queue.leaves_zero(sums);
}

bool norm_rope_append(const Stream& stream, const QkvRows& rows, const HeadNorms& norms,
                      const RotatedRows& rotated, const AttentionBatch& batch, const KvCacheView& cache) {
  if (cache.layout.dtype != DType::bf16) return false;
  norm_rope_append(queue_of(stream), rows, norms, rotated.q, batch, view_of(cache));
  return true;
}

void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache) {
  append_kv(queue_of(stream), k, v, batch, view_of(cache));
}

void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               const Tensor& scratch, const Tensor& out) {
  attention(queue_of(stream), q, view_of(cache), batch, q.columns() / cache.layout.head_dim, scratch, out);
}

// An op whose function takes a queue in place of the stream, and else the same.
template <auto kOp>
struct OnQueue;
template <typename... Arguments, void (*kOp)(const Queue&, Arguments...)>
struct OnQueue<kOp> {
  static void run(const Stream& stream, Arguments... arguments) { kOp(queue_of(stream), arguments...); }
};

}  // namespace

// What is null has no kernel yet; has_quantized_weights tells before it could be called.
const Backend& backend() {
  static constexpr Backend table{
      .slices_in_place = false,
      .kv_block_tokens = kKvTokens,
      .kv_block_bytes = kv_block_bytes,
      .max_sample_places = 256,
      .attention_scratch = attention_scratch,
      .partials_scratch = partials_scratch,
      .weight_bytes = weight_bytes,
      .output_chunk_offset = output_chunk_offset,
      .pack_rows = pack_rows,
      .matmul = matmul,
      .gated_matmul = gated_matmul,
      .order_free_matmul = order_free_matmul,
      .append_kv = append_kv,
      .attention = attention,
      .rope_table = OnQueue<rope_table>::run,
      .norm_rope = OnQueue<norm_rope>::run,
      .rms_norm = OnQueue<rms_norm>::run,
      .embed = OnQueue<embed>::run,
      .embed_bits = embed_bits,
      .bits_to_rows = OnQueue<bits_to_rows>::run,
      .copy_rows = OnQueue<copy_rows>::run,
      .gather_rows = OnQueue<gather_rows>::run,
      .clear_sums = clear_sums,
      .add_sums = OnQueue<add_sums>::run,
      .choose_experts = OnQueue<choose_experts>::run,
      .sort_by_expert = OnQueue<sort_by_expert>::run,
      .dispatch_rows = OnQueue<dispatch_rows>::run,
      .add_returned = OnQueue<add_returned>::run,
      .count_experts = OnQueue<count_experts>::run,
      .count_tokens = [](const Stream& stream, int64_t num_tokens,
                         const Tensor& counts) { count_tokens(queue_of(stream), num_tokens, counts); },
      .order_free_partials = order_free_partials,
      .add_partials = add_partials,
      .add_partials_norm = OnQueue<add_partials_norm>::run,
      .add_sums_norm = add_sums_norm,
      .route = OnQueue<route>::run,
      .norm_rope_append = norm_rope_append,
      .sample_scratch_bytes = sample_scratch_bytes,
      .sample = OnQueue<sample>::run,
      .place_tokens = OnQueue<place_tokens>::run,
      .clear_counts = OnQueue<clear_counts>::run,
      .add_counts = [](const Stream& stream, const Tensor& tokens, bool in_prompt,
                       const Tensor& counts) { count_tokens(queue_of(stream), tokens, in_prompt, counts); },
  };
  return table;
}

}  // namespace chorale::cuda
