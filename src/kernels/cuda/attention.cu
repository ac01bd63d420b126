// Attention over the paged cache of layout.h, by blocks of 64 tokens that are taken each by itself and merged
// in their order; see kernels/ref/tensor_core.h for the arithmetic. So a row's bits depend on neither which
// kernel takes it nor how many thread blocks share its blocks of tokens.
//
// The rows of a tile are the query heads that share a KV head, of one token after the other.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attend_many.cuh"
#include "kernels/cuda/attend_plain.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/tensor_checks.h"

namespace chorale::cuda {
namespace {

constexpr int kFewestPairs = 512;  // tiles from which on half as many thread blocks are still enough
constexpr int kFewWarps = 2;       // of a thread block that takes a block of tokens with each

// query(d): 16 dimensions of the rows, as the first operand of mma_16x8.
template <int DimBlocks, class Query>
__device__ __forceinline__ Probabilities probabilities(const Query& query, const int (&position)[2],
                                                       float scale, uint32_t keys, int first_position) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float scores[kTokens / 8][4];
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[j][i] = 0;
  }
#pragma unroll
  for (int d = 0; d < DimBlocks; ++d) {
    const int piece = d % 4 * 2 + lane / 8 % 2;
    uint32_t a[4];
    query(d, a);
#pragma unroll
    for (int pair = 0; pair < kTokens / 16; ++pair) {
      const int token = pair * 16 + lane / 16 * 8 + lane % 8;
      uint32_t b[4];
      load_matrices(b,
                    keys + d / 4 * static_cast<int>(kTileBytes) + token * 128 + ((piece ^ (token % 8)) << 4));
      mma_16x8(scores[2 * pair], a, b[0], b[1]);
      mma_16x8(scores[2 * pair + 1], a, b[2], b[3]);
    }
  }
  return probabilities_of(scores, position, scale, first_position);
}

// The product of the probabilities with 16 dimensions of the values: two fragments.
__device__ __forceinline__ void multiply_values(const Probabilities& probabilities, uint32_t values,
                                                int dim_block, float (&out)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int piece = dim_block % 4 * 2 + lane / 16;
#pragma unroll
  for (int i = 0; i < 4; ++i) out[0][i] = out[1][i] = 0;
#pragma unroll
  for (int k = 0; k < kTokens / 16; ++k) {
    const int token = k * 16 + lane / 8 % 2 * 8 + lane % 8;
    uint32_t b[4];
    load_matrices_transposed(b, values + dim_block / 4 * static_cast<int>(kTileBytes) + token * 128 +
                                    ((piece ^ (token % 8)) << 4));
    mma_16x8(out[0], probabilities.p[k], b[0], b[1]);
    mma_16x8(out[1], probabilities.p[k], b[2], b[3]);
  }
}

// ---- few rows: a warp takes one block of tokens of one KV head, and another kernel merges ----

// The chunk that a place of the block tables belongs to: the last that does not begin behind it. A warp looks
// at 32 at once.
__device__ __forceinline__ int chunk_of_block(const AttentionArgs& args, int table_block) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int first = 0, count = args.num_chunks;
  while (count > 1) {
    const int step = (count + 31) / 32, offset = lane * step;
    const bool begins =
        offset < count &&
        args.chunks[(first + offset) * args.chunk_stride + SegmentColumn::first_block] <= table_block;
    const int skipped = max(__popc(__ballot_sync(0xFFFFFFFFU, begins)) - 1, 0) * step;
    first += skipped;
    count = min(step, count - skipped);
  }
  return first;
}

// Of a place of the block tables and a KV head: 16 rows of outputs, then their maxima and sums.
template <int DimBlocks>
__device__ __forceinline__ float* partial_of(const AttentionArgs& args, int table_block, int kv_head) {
  constexpr int kFloats = kWarpRows * (Tile<DimBlocks>::kDim + 2);
  return args.partials + (static_cast<int64_t>(table_block) * args.num_kv_heads + kv_head) * kFloats;
}

template <int DimBlocks>
__global__ void __launch_bounds__(kFewWarps * 32) attend_few(const __grid_constant__ AttentionArgs args) {
  using T = Tile<DimBlocks>;
  extern __shared__ __align__(1024) std::byte memory[];
  __shared__ uint64_t barriers[kFewWarps];
  wait_for_previous();
  allow_next();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t keys = shared_address(memory) + warp * T::kHeadBytes,
                 barrier = shared_address(barriers + warp);
  const int item = static_cast<int>(blockIdx.x) * kFewWarps + warp;
  const int table_block = item / args.num_kv_heads, kv_head = item % args.num_kv_heads;
  if (table_block >= args.num_table_blocks) return;
  const Chunk chunk = Chunk::at(args, chunk_of_block(args, table_block));
  const int block = table_block - chunk.first_block;
  if (chunk.num_tokens > args.few_tokens || chunk.num_tokens == 0 || block >= chunk.num_blocks()) return;
  if (lane == 0) {
    barrier_init(barrier, 1);
    barrier_init_fence();
    barrier_expect(barrier, T::kHeadBytes);
    bulk_copy(keys, args.cache + args.block_tables[table_block] * args.block_bytes + kv_head * T::kHeadBytes,
              T::kHeadBytes, barrier, kEvictFirst);
  }
  T tile;
  tile.load(args, chunk, kv_head, 0);
  __syncwarp();
  barrier_wait(barrier, 0);
  const auto query = [&tile](int d, uint32_t(&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = tile.q[d][i];
  };
  const Probabilities p = probabilities<DimBlocks>(query, tile.position, args.scale, keys, block * kTokens);
  float* partial = partial_of<DimBlocks>(args, table_block, kv_head);
#pragma unroll
  for (int d = 0; d < DimBlocks; ++d) {
    float fresh[2][4];
    multiply_values(p, keys + T::kKeyBytes, d, fresh);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (T::row_of(0, h) < chunk.num_tokens * args.group)
          *reinterpret_cast<float2*>(partial + (lane / 4 + 8 * h) * T::kDim + d * 16 + n * 8 + lane % 4 * 2) =
              make_float2(fresh[n][2 * h], fresh[n][2 * h + 1]);
      }
    }
  }
  if (lane % 4 == 0) {
    float* rest = partial + kWarpRows * T::kDim;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rest[lane / 4 + 8 * h] = p.maximum[h];
      rest[kWarpRows + lane / 4 + 8 * h] = p.sum[h];
    }
  }
}

// A thread block has one row of a chunk and one KV head; a thread one dimension.
template <int DimBlocks>
__global__ void __launch_bounds__(Tile<DimBlocks>::kDim)
    merge_few(const __grid_constant__ AttentionArgs args) {
  using T = Tile<DimBlocks>;
  wait_for_previous();
  allow_next();
  const Chunk chunk = Chunk::at(args, static_cast<int>(blockIdx.x));
  const int kv_head = static_cast<int>(blockIdx.y), row = static_cast<int>(blockIdx.z);
  if (chunk.num_tokens > args.few_tokens || row >= chunk.num_tokens * args.group) return;
  const int blocks = (chunk.first_position + row / args.group) / kTokens + 1;
  const int dim = static_cast<int>(threadIdx.x);
  constexpr int kBatch = 4;  // blocks that are asked for at once
  float out = 0, maximum = 0, sum = 0;
  for (int first = 0; first < blocks; first += kBatch) {
    float outs[kBatch], maxima[kBatch], sums[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int block = min(first + i, blocks - 1);
      const float* partial = partial_of<DimBlocks>(args, chunk.first_block + block, kv_head);
      outs[i] = partial[row * T::kDim + dim];
      maxima[i] = partial[kWarpRows * T::kDim + row];
      sums[i] = partial[kWarpRows * (T::kDim + 1) + row];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= blocks) break;
      const bool is_first = first + i == 0;
      const Merge merge = Merge::of(is_first ? maxima[i] : maximum, maxima[i]);
      out = is_first ? outs[i] : merge(out, outs[i]);
      sum = is_first ? sums[i] : merge(sum, sums[i]);
      maximum = merge.maximum;
    }
  }
  const float result = __fdiv_rn(out, sum);
  args.out[(chunk.first_token + row / args.group) * args.out_stride +
           (kv_head * args.group + row % args.group) * T::kDim + dim] =
      static_cast<uint16_t>(to_bf16_pair(result, 0) & 0xFFFFU);
}

template <int DimBlocks>
void start(const Queue& queue, const AttentionArgs& args, const AttentionBatch& batch) {
  using T = Tile<DimBlocks>;
  const auto chunks = static_cast<unsigned>(args.num_chunks),
             heads = static_cast<unsigned>(args.num_kv_heads);
  constexpr int kFewBytes = kFewWarps * T::kHeadBytes,
                kManyBytes = kManyStages * T::kHeadBytes + kManyGroups * 2 * T::kKeyBytes;
  queue.enter();
  const auto allow = [&](auto kernel, int bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention",
          queue.index());
  };
  if (args.few_tokens > 0) {
    allow(attend_few<DimBlocks>, kFewBytes);
    launch(queue, "attend_few", attend_few<DimBlocks>,
           {dim3(blocks_for(int64_t{args.num_table_blocks} * args.num_kv_heads, kFewWarps)), kFewWarps * 32,
            kFewBytes},
           args);
    const auto rows =
        static_cast<unsigned>(std::min<int64_t>(batch.longest_segment, args.few_tokens) * args.group);
    launch(queue, "merge_few", merge_few<DimBlocks>, {dim3(chunks, heads, rows), T::kDim, 0}, args);
  }
  if (batch.longest_segment > args.few_tokens) {
    allow(attend_many<DimBlocks>, kManyBytes);
    AttentionArgs many = args;
    const unsigned tiles = blocks_for(batch.longest_segment * args.group, kManyRows);
    many.pairs = int64_t{tiles} * heads * chunks >= kFewestPairs;
    launch(queue, "attend_many", attend_many<DimBlocks>,
           {dim3(heads, chunks, many.pairs ? (tiles + 1) / 2 : tiles), kManyThreads, kManyBytes}, many);
  }
}

void start_plain(const Queue& queue, const PlainAttentionArgs& args, int64_t longest) {
  const auto chunks = static_cast<unsigned>(args.attention.num_chunks);
  const int64_t heads = args.attention.num_kv_heads, rows = longest * args.attention.group;
  const int64_t dims = args.tiles.head_dim;
  if (args.tiles.has_tiles()) {
    const auto slices = static_cast<unsigned>(heads * ceil_div(dims, kPlainDims));
    launch(
        queue, "attend_plain", attend_plain,
        {dim3(blocks_for(rows, kPlainAttentionWarps * kWarpRows), slices, chunks), kPlainAttentionWarps * 32},
        args);
  } else {
    launch(queue, "attend_floats", attend_floats,
           {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(heads), chunks), kFloatThreads,
            static_cast<size_t>(dims) * sizeof(float)},
           args);
  }
}

constexpr int kExp2Threads = 256;

__global__ void __launch_bounds__(kExp2Threads) exp2_kernel(Rows<float> values, int64_t columns) {
  wait_for_previous();
  allow_next();
  const int64_t c = int64_t{blockIdx.y} * kExp2Threads + threadIdx.x;
  if (c < columns) values.row(blockIdx.x)[c] = exp2_approximate(values.row(blockIdx.x)[c]);
}

bool is_plain(const KvTiles& tiles) {
  constexpr int64_t kOwnKernels[] = {16, 32, 64, 96, 128};
  return !tiles.has_tiles() ||
         std::find(std::begin(kOwnKernels), std::end(kOwnKernels), tiles.head_dim) == std::end(kOwnKernels);
}

}  // namespace

void exp2_approximate(const Queue& queue, const Tensor& values) {
  const LaunchShape shape{
      dim3(static_cast<unsigned>(values.rows()), blocks_for(values.columns(), kExp2Threads)), kExp2Threads};
  launch(queue, "exp2_approximate", exp2_kernel, shape, rows_of<float>(values), values.columns());
}

int64_t attention_scratch_floats(const KvTiles& tiles, int64_t table_blocks) {
  return is_plain(tiles) ? 0 : table_blocks * tiles.num_kv_heads * kWarpRows * (tiles.head_dim + 2);
}

void attention(const Queue& queue, const Tensor& q, const KvTilesView& cache, const AttentionBatch& batch,
               int64_t num_heads, const Tensor& scratch, const Tensor& out) {
  const KvTiles& tiles = cache.tiles;
  check_matrix(q, tiles.dtype, out.rows(), num_heads * tiles.head_dim, "q");
  check_matrix(out, tiles.dtype, q.rows(), q.columns(), "out");
  CHORALE_CHECK(num_heads % tiles.num_kv_heads == 0);
  CHORALE_CHECK(tiles.head_dim % 2 == 0 && tiles.head_dim <= kMaxHeadDim, "head_dim {}", tiles.head_dim);
  CHORALE_CHECK(q.row_stride() % 2 == 0 && out.row_stride() % 2 == 0);
  if (q.empty() || batch.segments.empty()) return;
  const int64_t table_blocks = batch.block_tables.columns(), group = num_heads / tiles.num_kv_heads;
  if (!is_plain(tiles))
    check_vector(scratch, DType::f32, attention_scratch_floats(tiles, table_blocks), "scratch");
  const AttentionArgs args{
      .q = reinterpret_cast<const uint16_t*>(q.device_bytes()),
      .q_stride = q.row_stride(),
      .out = reinterpret_cast<uint16_t*>(out.device_bytes()),
      .out_stride = out.row_stride(),
      .cache = cache.data,
      .block_bytes = tiles.block_bytes(),
      .chunks = batch.segments.device_data<int32_t>(),
      .chunk_stride = batch.segments.row_stride(),
      .num_chunks = static_cast<int>(batch.segments.rows()),
      .block_tables = batch.block_tables.device_data<int32_t>(),
      .num_table_blocks = static_cast<int>(table_blocks),
      .partials = is_plain(tiles) ? nullptr : scratch.device_data<float>(),
      .num_kv_heads = static_cast<int>(tiles.num_kv_heads),
      .group = static_cast<int>(group),
      .few_tokens = static_cast<int>(kWarpRows / group),
      .scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(tiles.head_dim)))};
  if (is_plain(tiles)) return start_plain(queue, {args, tiles}, batch.longest_segment);
  switch (tiles.head_dim) {
    case 16:
      return start<1>(queue, args, batch);
    case 32:
      return start<2>(queue, args, batch);
    case 64:
      return start<4>(queue, args, batch);
    case 96:
      return start<6>(queue, args, batch);
    default:
      return start<8>(queue, args, batch);
  }
}

}  // namespace chorale::cuda
