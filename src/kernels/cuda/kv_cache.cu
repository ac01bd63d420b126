// The writing of the KV cache: a warp has one head, or a few, of one token.
#include "base/error.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRun = 2;  // neighbouring dimensions of a thread; head_dim is even

struct CacheArgs {
  KvTiles tiles;
  std::byte* data;
  const int32_t* chunks;  // [num_chunks][SegmentColumn::count]
  int num_chunks;
  const int32_t* block_tables;
};

CacheArgs cache_args(const AttentionBatch& batch, const KvTilesView& cache) {
  CHORALE_CHECK(batch.segments.row_stride() == SegmentColumn::count, "chunks must be dense");
  CHORALE_CHECK(cache.tiles.head_dim % 2 == 0, "head_dim {}", cache.tiles.head_dim);
  return {cache.tiles, cache.data, batch.segments.device_data<int32_t>(), static_cast<int>(batch.segments.rows()),
          batch.block_tables.device_data<int32_t>()};
}

// Where a token lies in the cache. block: null when it is no chunk's.
struct Place {
  std::byte* block;
  int64_t slot;  // within the block
  int64_t end;   // slot behind the last token of the step that is in this block, 64 at most
};

// By a whole warp: the last chunk that does not begin behind the token, 32 candidates at a time.
__device__ __forceinline__ Place place_of(const CacheArgs& args, int token) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int first = 0;
  int count = args.num_chunks;
  while (count > 0) {
    const int step = (count + kWarp - 1) / kWarp;
    const int probe = lane * step;
    const bool before =
        probe < count &&
        args.chunks[(first + probe) * SegmentColumn::count + SegmentColumn::first_token] <= token;
    const int below = __popc(__ballot_sync(kAllLanes, before));
    if (below == 0) return {nullptr, 0, 0};
    first += (below - 1) * step;
    if (step == 1) break;
    count = min(step, count - (below - 1) * step);
  }
  if (args.num_chunks == 0) return {nullptr, 0, 0};
  const int32_t* chunk = args.chunks + first * SegmentColumn::count;
  const int64_t within = token - chunk[SegmentColumn::first_token];
  const int64_t num_tokens = chunk[SegmentColumn::num_tokens];
  if (within >= num_tokens) return {nullptr, 0, 0};
  const int64_t position = chunk[SegmentColumn::first_position] + within;
  const int64_t slot = position % kKvTokens;
  const int64_t block = args.block_tables[chunk[SegmentColumn::first_block] + position / kKvTokens];
  const int64_t left = num_tokens - within;
  return {args.data + block * args.tiles.block_bytes(), slot, min(slot + left, kKvTokens)};
}

template <int n>
__device__ __forceinline__ void write_bf16(std::byte* to, const Vector<float, n>& values) {
  Vector<__nv_bfloat16, n> y;
#pragma unroll
  for (int i = 0; i < n; ++i) narrow(values.at[i], y.at[i]);
  store<n, true>(reinterpret_cast<__nv_bfloat16*>(to), y);
}

// The value row of a token, and zeros in the rows that only later steps write.
template <bool whole>
__device__ __forceinline__ void append_value(const float* v, const CacheArgs& args, int64_t head,
                                             const Place& place) {
  const int64_t lane = threadIdx.x % kWarp;
  for (int64_t dim = lane * kRun; dim < args.tiles.head_dim; dim += kWarp * kRun)
    write_bf16(place.block + args.tiles.value_offset(head, place.slot, dim), load<kRun, whole>(v + dim));
  if (place.slot != 0) return;
  constexpr int64_t kPieces = kTile / kPiece;  // of a row of a tile
  for (int64_t tile = 0; tile < args.tiles.dim_tiles(); ++tile) {
    std::byte* first = place.block + args.tiles.value_offset(head, 0, tile * kTile);
    for (int64_t piece = place.end * kPieces + lane; piece < kKvTokens * kPieces; piece += kWarp)
      store_bits(first + piece * kPiece * int64_t{sizeof(__nv_bfloat16)}, Bits<4>{});
  }
}

template <bool whole>
__global__ void __launch_bounds__(kWarps* kWarp)
    append_kernel(Rows<const __nv_bfloat16> k, Rows<const float> v, CacheArgs args) {
  wait_for_previous();
  allow_next();
  const int64_t head = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp;
  if (head >= args.tiles.num_kv_heads) return;
  const Place place = place_of(args, static_cast<int>(blockIdx.x));
  if (place.block == nullptr) return;
  const int64_t column = head * args.tiles.head_dim;
  const __nv_bfloat16* key = k.row(blockIdx.x) + column;
  for (int64_t dim = threadIdx.x % kWarp * kRun; dim < args.tiles.head_dim; dim += kWarp * kRun) {
    auto* to = reinterpret_cast<__nv_bfloat16*>(place.block + args.tiles.key_offset(head, place.slot, dim));
    store<kRun, true>(to, load<kRun, whole>(key + dim));
  }
  append_value<whole>(v.row(blockIdx.x) + column, args, head, place);
}

struct QkvArgs {
  Rows<const float> q, k, v;
  Rows<__nv_bfloat16> q_out;
  int64_t num_heads;
  RopeArgs q_norm, k_norm;
};

// Groups of heads of q first, then those of k, then those of v: a warp has a group.
template <int run, bool whole>
__global__ void __launch_bounds__(kWarps* kWarp) norm_rope_append_kernel(QkvArgs rows, CacheArgs args) {
  wait_for_previous();
  allow_next();
  const int64_t t = blockIdx.x;
  const int64_t head_dim = args.tiles.head_dim;
  const int64_t q_groups = ceil_div(rows.num_heads, kHeadsPerWarp);
  const int64_t kv_groups = ceil_div(args.tiles.num_kv_heads, kHeadsPerWarp);
  int64_t group = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp;
  if (group < q_groups) {
    const int64_t head = group * kHeadsPerWarp;
    const int count = static_cast<int>(min(rows.num_heads - head, int64_t{kHeadsPerWarp}));
    __nv_bfloat16* to = rows.q_out.row(t) + head * head_dim;
    norm_rope_heads<run, whole>(rows.q.row(t) + head * head_dim, rows.q_norm, t, count,
                                [&](int h, int64_t dim, const Vector<float, run>& values) {
                                  Vector<__nv_bfloat16, run> y;
#pragma unroll
                                  for (int i = 0; i < run; ++i) narrow(values.at[i], y.at[i]);
                                  store<run, whole>(to + h * head_dim + dim, y);
                                });
    return;
  }
  group -= q_groups;
  const bool is_value = group >= kv_groups;
  if (is_value) group -= kv_groups;
  if (group >= kv_groups) return;
  const Place place = place_of(args, static_cast<int>(t));
  if (place.block == nullptr) return;
  const int64_t head = group * kHeadsPerWarp;
  const int count = static_cast<int>(min(args.tiles.num_kv_heads - head, int64_t{kHeadsPerWarp}));
  if (is_value) {
    for (int h = 0; h < count; ++h)
      append_value<whole>(rows.v.row(t) + (head + h) * head_dim, args, head + h, place);
    return;
  }
  norm_rope_heads<run, whole>(rows.k.row(t) + head * head_dim, rows.k_norm, t, count,
                              [&](int h, int64_t dim, const Vector<float, run>& values) {
                                write_bf16(place.block + args.tiles.key_offset(head + h, place.slot, dim),
                                           values);
                              });
}

LaunchShape shape_for(int64_t tokens, int64_t warps) {
  return {dim3(static_cast<unsigned>(tokens), blocks_for(warps, kWarps)), kWarps * kWarp};
}

}  // namespace

void append_kv(const Queue& queue, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvTilesView& cache) {
  const CacheArgs args = cache_args(batch, cache);
  with_flag(rows_aligned(k, kRun) && rows_aligned(v, kRun), [&](auto whole) {
    launch(queue, "append_kv", append_kernel<whole()>, shape_for(k.rows(), cache.tiles.num_kv_heads),
           rows_of<const __nv_bfloat16>(k), rows_of<const float>(v), args);
  });
}

void norm_rope_append(const Queue& queue, const QkvRows& rows, const HeadNorms& norms, const Tensor& q_out,
                      const AttentionBatch& batch, const KvTilesView& cache) {
  CHORALE_CHECK(q_out.dtype() == DType::bf16, "q of {}", name_of(q_out.dtype()));
  const CacheArgs cached = cache_args(batch, cache);
  const int64_t num_heads = rows.q.columns() / cache.tiles.head_dim;
  const QkvArgs args{rows_of<const float>(rows.q),
                     rows_of<const float>(rows.k),
                     rows_of<const float>(rows.v),
                     rows_of<__nv_bfloat16>(q_out),
                     num_heads,
                     rope_args(norms.q_weight, norms.eps, norms.cos_sin),
                     rope_args(norms.k_weight, norms.eps, norms.cos_sin)};
  const bool is_whole = args.q_norm.aligned && args.k_norm.aligned && rows_aligned(rows.q, kRun) &&
                        rows_aligned(rows.k, kRun) && rows_aligned(rows.v, kRun) && rows_aligned(q_out, kRun);
  const LaunchShape shape =
      shape_for(rows.q.rows(),
                ceil_div(num_heads, kHeadsPerWarp) + 2 * ceil_div(cache.tiles.num_kv_heads, kHeadsPerWarp));
  with_flag(is_whole, [&](auto whole) {
    const auto kernel = head_run(cache.tiles.head_dim) == 2 ? norm_rope_append_kernel<2, whole()>
                                                            : norm_rope_append_kernel<1, false>;
    launch(queue, "norm_rope_append", kernel, shape, args, cached);
  });
}

}  // namespace chorale::cuda
