// The writing of the KV cache: a warp has one head, or a few, of one token.
#include <type_traits>

#include "base/error.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRun = 2;  // neighbouring dimensions of a thread; head_dim is even
constexpr int64_t kManyRows = 256;

struct CacheArgs {
  KvTiles tiles;
  std::byte* data;
  const int32_t* chunks;  // [num_chunks][SegmentColumn::count]
  int num_chunks;
  const int32_t* block_tables;
};

// The layout, of which the element type is known to the compiler.
template <typename T>
__device__ __forceinline__ KvTiles tiles_of(const CacheArgs& args) {
  return {args.tiles.num_kv_heads, args.tiles.head_dim, std::is_same_v<T, float> ? DType::f32 : DType::bf16};
}

CacheArgs cache_args(const AttentionBatch& batch, const KvTilesView& cache) {
  CHORALE_CHECK(batch.segments.row_stride() == SegmentColumn::count, "chunks must be dense");
  CHORALE_CHECK(cache.tiles.head_dim % 2 == 0, "head_dim {}", cache.tiles.head_dim);
  return {cache.tiles, cache.data, batch.segments.device_data<int32_t>(),
          static_cast<int>(batch.segments.rows()), batch.block_tables.device_data<int32_t>()};
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

template <typename T, int n>
__device__ __forceinline__ void write(std::byte* to, const Vector<float, n>& values) {
  Vector<T, n> y;
#pragma unroll
  for (int i = 0; i < n; ++i) narrow(values.at[i], y.at[i]);
  store<n, true>(reinterpret_cast<T*>(to), y);
}

// Zeros in the value rows [first, kKvTokens) of a head.
template <typename T>
__device__ __forceinline__ void clear_values(const KvTiles& tiles, std::byte* block, int64_t head,
                                             int64_t first) {
  const int64_t lane = threadIdx.x % kWarp;
  if constexpr (std::is_same_v<T, float>) {
    auto* values = reinterpret_cast<float*>(block + tiles.value_offset(head, 0, 0));
    for (int64_t i = first * tiles.head_dim + lane; i < kKvTokens * tiles.head_dim; i += kWarp) values[i] = 0;
  } else {
    constexpr int64_t kPieces = kTile / kPiece;  // of a row of a tile
    for (int64_t tile = 0; tile < tiles.dim_tiles(); ++tile) {
      std::byte* values = block + tiles.value_offset(head, 0, tile * kTile);
      for (int64_t piece = first * kPieces + lane; piece < kKvTokens * kPieces; piece += kWarp)
        store_bits(values + piece * kPiece * int64_t{sizeof(T)}, Bits<4>{});
    }
  }
}

// The value row of a token, and zeros in the rows that only later steps write.
template <typename T, bool whole>
__device__ __forceinline__ void append_value(const float* v, const CacheArgs& args, int64_t head,
                                             const Place& place) {
  const KvTiles tiles = tiles_of<T>(args);
  for (int64_t dim = threadIdx.x % kWarp * kRun; dim < tiles.head_dim; dim += kWarp * kRun)
    write<T>(place.block + tiles.value_offset(head, place.slot, dim), load<kRun, whole>(v + dim));
  if (place.slot == 0) clear_values<T>(tiles, place.block, head, place.end);
}

template <typename T, bool whole>
__global__ void __launch_bounds__(kWarps* kWarp)
    append_kernel(Rows<const T> k, Rows<const float> v, CacheArgs args) {
  wait_for_previous();
  allow_next();
  const int64_t head = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp;
  if (head >= args.tiles.num_kv_heads) return;
  const Place place = place_of(args, static_cast<int>(blockIdx.x));
  if (place.block == nullptr) return;
  const KvTiles tiles = tiles_of<T>(args);
  const int64_t column = head * tiles.head_dim;
  const T* key = k.row(blockIdx.x) + column;
  for (int64_t dim = threadIdx.x % kWarp * kRun; dim < tiles.head_dim; dim += kWarp * kRun) {
    auto* to = reinterpret_cast<T*>(place.block + tiles.key_offset(head, place.slot, dim));
    store<kRun, true>(to, load<kRun, whole>(key + dim));
  }
  append_value<T, whole>(v.row(blockIdx.x) + column, args, head, place);
}

struct QkvArgs {
  Rows<const float> q, k, v;
  Rows<__nv_bfloat16> q_out;
  int64_t num_heads;
  RopeArgs q_norm, k_norm;
};

// Groups of heads of q first, then those of k, then those of v: a warp has a group.
template <int group_heads, int run, bool whole>
__global__ void __launch_bounds__(kWarps* kWarp) norm_rope_append_kernel(QkvArgs rows, CacheArgs args) {
  wait_for_previous();
  allow_next();
  const int64_t t = blockIdx.x;
  const KvTiles tiles = tiles_of<__nv_bfloat16>(args);
  const int64_t head_dim = tiles.head_dim;
  const int64_t q_groups = ceil_div(rows.num_heads, group_heads);
  const int64_t kv_groups = ceil_div(tiles.num_kv_heads, group_heads);
  int64_t group = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp;
  if (group < q_groups) {
    const int64_t head = group * group_heads;
    const int count = static_cast<int>(min(rows.num_heads - head, int64_t{group_heads}));
    __nv_bfloat16* to = rows.q_out.row(t) + head * head_dim;
    norm_rope_heads<group_heads, run, whole>(rows.q.row(t) + head * head_dim, rows.q_norm, t, count,
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
  const int64_t head = group * group_heads;
  const int count = static_cast<int>(min(tiles.num_kv_heads - head, int64_t{group_heads}));
  if (is_value) {
    for (int h = 0; h < count; ++h)
      append_value<__nv_bfloat16, whole>(rows.v.row(t) + (head + h) * head_dim, args, head + h, place);
    return;
  }
  norm_rope_heads<group_heads, run, whole>(
      rows.k.row(t) + head * head_dim, rows.k_norm, t, count,
      [&](int h, int64_t dim, const Vector<float, run>& values) {
        write<__nv_bfloat16>(place.block + tiles.key_offset(head + h, place.slot, dim), values);
      });
}

LaunchShape shape_for(int64_t tokens, int64_t warps) {
  return {dim3(static_cast<unsigned>(tokens), blocks_for(warps, kWarps)), kWarps * kWarp};
}

}  // namespace

void append_kv(const Queue& queue, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvTilesView& cache) {
  const CacheArgs args = cache_args(batch, cache);
  CHORALE_CHECK(k.dtype() == cache.tiles.dtype, "keys of {}", name_of(k.dtype()));
  with_activation(k.dtype(), [&](auto element) {
    with_flag(rows_aligned(k, kRun) && rows_aligned(v, kRun), [&](auto whole) {
      using T = decltype(element);
      launch(queue, "append_kv", append_kernel<T, whole()>, shape_for(k.rows(), cache.tiles.num_kv_heads),
             rows_of<const T>(k), rows_of<const float>(v), args);
    });
  });
}

void norm_rope_append(const Queue& queue, const QkvRows& rows, const HeadNorms& norms, const Tensor& q_out,
                      const AttentionBatch& batch, const KvTilesView& cache) {
  CHORALE_CHECK(q_out.dtype() == DType::bf16 && cache.tiles.has_tiles(), "q of {}", name_of(q_out.dtype()));
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
  // Many rows fill the GPU, and heads that share what they read are worth more than more warps.
  with_flag(rows.q.rows() > kManyRows, [&](auto many) {
    constexpr int kGroup = many() ? kHeadsPerWarp : 1;
    const LaunchShape shape = shape_for(
        rows.q.rows(), ceil_div(num_heads, kGroup) + 2 * ceil_div(cache.tiles.num_kv_heads, kGroup));
    with_flag(is_whole, [&](auto whole) {
      const auto kernel = head_run(cache.tiles.head_dim) == 2 ? norm_rope_append_kernel<kGroup, 2, whole()>
                                                              : norm_rope_append_kernel<kGroup, 1, false>;
      launch(queue, "norm_rope_append", kernel, shape, args, cached);
    });
  });
}

}  // namespace chorale::cuda
