// Attention in the plainest form: of bf16 for heads of any even size, with the bits of the other kernels, and
// of float32 for checking.
#pragma once

#include "kernels/cuda/attention.cuh"

namespace chorale::cuda {

struct PlainAttentionArgs {
  AttentionArgs attention;
  KvTiles tiles;
};

// ---- bf16: a warp has 16 rows and some dimensions of their outputs, for which it takes all scores anew ----

constexpr int kPlainAttentionWarps = 4;
constexpr int kPlainDims = 64;

// Two rows of queries, a thread's own, as AttentionArgs has them: rows of 16-bit values.
struct PlainRows {
  const uint16_t* q[2];
  int position[2];
  int row[2];  // the last one again where there is none

  __device__ __forceinline__ PlainRows(const PlainAttentionArgs& plain, const Chunk& chunk, int kv_head,
                                       int first_row) {
    const AttentionArgs& args = plain.attention;
    const int last = chunk.num_tokens * args.group - 1;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row[h] = min(first_row + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * h, last);
      position[h] = chunk.first_position + row[h] / args.group;
      q[h] = args.q + (chunk.first_token + row[h] / args.group) * args.q_stride + column(plain, kv_head, h);
    }
  }
  __device__ __forceinline__ int64_t column(const PlainAttentionArgs& plain, int kv_head, int h) const {
    const int group = plain.attention.group;
    return (int64_t{kv_head} * group + row[h] % group) * plain.tiles.head_dim;
  }
};

// The calling thread's number in its warp, read anew: else the compiler would keep all addresses that follow
// from it in registers, and has not enough of them.
__device__ __forceinline__ int lane_again() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Byte of a head's keys, or values, at which those of a token and dimension lie.
__device__ __forceinline__ int offset_in_tiles(int token, int dim) {
  constexpr int kColumns = static_cast<int>(kTile), kPieceColumns = static_cast<int>(kPiece);
  const int piece = dim % kColumns / kPieceColumns ^ token % 8;
  return dim / kColumns * static_cast<int>(kTileBytes) +
         (token * kColumns + piece * kPieceColumns + dim % kPieceColumns) * 2;
}

// Of a pair of dimensions; zeros beyond the head's end.
__device__ __forceinline__ uint32_t pair_of_dims(const void* from, int dim, int head_dim) {
  return dim < head_dim ? *static_cast<const uint32_t*>(from) : 0U;
}

__device__ __forceinline__ Probabilities plain_probabilities(const PlainAttentionArgs& plain,
                                                             const PlainRows& rows, const std::byte* keys,
                                                             int first_position) {
  const int head_dim = static_cast<int>(plain.tiles.head_dim);
  float scores[kTokens / 8][4];
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[j][i] = 0;
  }
#pragma unroll 1
  for (int first = 0; first < head_dim; first += static_cast<int>(kBlockK)) {
    const int lane = lane_again();
    const int dims[2] = {first + lane % 4 * 2, first + lane % 4 * 2 + 8};
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = pair_of_dims(rows.q[i % 2] + dims[i / 2], dims[i / 2], head_dim);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      uint32_t b[2];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        b[i] = pair_of_dims(keys + offset_in_tiles(j * 8 + lane / 4, dims[i]), dims[i], head_dim);
      mma_16x8(scores[j], a, b[0], b[1]);
    }
  }
  return probabilities_of(scores, rows.position, plain.attention.scale, first_position);
}

// The product of the probabilities with the 8 dimensions of the values from `first_dim` on.
__device__ __forceinline__ void multiply_plain_values(const PlainAttentionArgs& plain, const Probabilities& p,
                                                      const std::byte* values, int first_dim,
                                                      float (&out)[4]) {
  const int lane = lane_again(), dim = first_dim + lane / 4;
  const auto value = [&](int token) -> uint32_t {
    if (dim >= plain.tiles.head_dim) return 0;
    return *reinterpret_cast<const uint16_t*>(values + offset_in_tiles(token, dim));
  };
#pragma unroll
  for (float& sum : out) sum = 0;
#pragma unroll
  for (int k = 0; k < kTokens / 16; ++k) {
    uint32_t b[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = k * 16 + i * 8 + lane % 4 * 2;
      b[i] = value(token) | value(token + 1) << 16U;
    }
    mma_16x8(out, p.p[k], b[0], b[1]);
  }
}

__global__ void __launch_bounds__(kPlainAttentionWarps * 32)
    attend_plain(const __grid_constant__ PlainAttentionArgs plain) {
  wait_for_previous();
  allow_next();
  const AttentionArgs& args = plain.attention;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Chunk chunk = Chunk::at(args, static_cast<int>(blockIdx.z));
  const int kv_head = static_cast<int>(blockIdx.y) % args.num_kv_heads;
  const int first_dim = static_cast<int>(blockIdx.y) / args.num_kv_heads * kPlainDims;
  const KvTiles tiles{plain.tiles.num_kv_heads, plain.tiles.head_dim};
  const int num_rows = chunk.num_tokens * args.group;
  const int first_row =
      (static_cast<int>(blockIdx.x) * kPlainAttentionWarps + static_cast<int>(threadIdx.x) / 32) * kWarpRows;
  if (first_row >= num_rows) return;
  const PlainRows rows(plain, chunk, kv_head, first_row);
  const int last_row = min(first_row + kWarpRows, num_rows) - 1;
  const int blocks = (chunk.first_position + last_row / args.group) / kTokens + 1;
  float out[kPlainDims / 8][4], maximum[2] = {0, 0}, sum[2] = {0, 0};
#pragma unroll 1
  for (int index = 0; index < blocks; ++index) {
    const std::byte* block = args.cache + args.block_tables[chunk.first_block + index] * args.block_bytes;
    const std::byte* values = block + tiles.value_offset(kv_head, 0, 0);
    const Probabilities p =
        plain_probabilities(plain, rows, block + tiles.key_offset(kv_head, 0, 0), index * kTokens);
    Merge merges[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (rows.position[h] < index * kTokens) continue;  // the row does not see the block
      merges[h] = Merge::of(index == 0 ? p.maximum[h] : maximum[h], p.maximum[h]);
      maximum[h] = merges[h].maximum;
      sum[h] = index == 0 ? p.sum[h] : merges[h](sum[h], p.sum[h]);
    }
#pragma unroll
    for (int n = 0; n < kPlainDims / 8; ++n) {
      if (first_dim + n * 8 >= plain.tiles.head_dim) break;
      float fresh[4];
      multiply_plain_values(plain, p, values, first_dim + n * 8, fresh);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (rows.position[i / 2] < index * kTokens) continue;
        out[n][i] = index == 0 ? fresh[i] : merges[i / 2](out[n][i], fresh[i]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (first_row + lane / 4 + 8 * h >= num_rows) continue;
    uint16_t* to = args.out + (chunk.first_token + rows.row[h] / args.group) * args.out_stride +
                   rows.column(plain, kv_head, h);
#pragma unroll
    for (int n = 0; n < kPlainDims / 8; ++n) {
      const int dim = first_dim + n * 8 + lane % 4 * 2;
      if (dim >= plain.tiles.head_dim) break;
      *reinterpret_cast<uint32_t*>(to + dim) =
          to_bf16_pair(__fdiv_rn(out[n][2 * h], sum[h]), __fdiv_rn(out[n][2 * h + 1], sum[h]));
    }
  }
}

// ---- float32: a thread block has one row; a thread one token of a block, then some dimensions ----

constexpr int kFloatThreads = kTokens;

// Over the two warps of a thread block. shared: two floats.
template <class Combine>
__device__ __forceinline__ float combine_over_block(float value, float* shared, const Combine& combine) {
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) value = combine(value, __shfl_xor_sync(0xFFFFFFFFU, value, bit));
  __syncthreads();  // what was combined before has been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  return combine(shared[0], shared[1]);
}

__global__ void __launch_bounds__(kFloatThreads)
    attend_floats(const __grid_constant__ PlainAttentionArgs plain) {
  extern __shared__ float out[];  // [D]
  __shared__ float probabilities[kTokens], combined[2];
  wait_for_previous();
  allow_next();
  const AttentionArgs& args = plain.attention;
  const KvTiles tiles{plain.tiles.num_kv_heads, plain.tiles.head_dim, DType::f32};
  const Chunk chunk = Chunk::at(args, static_cast<int>(blockIdx.z));
  const int kv_head = static_cast<int>(blockIdx.y), row = static_cast<int>(blockIdx.x);
  if (row >= chunk.num_tokens * args.group) return;
  const int token = chunk.first_token + row / args.group, own = static_cast<int>(threadIdx.x);
  const int position = chunk.first_position + row / args.group;
  const int64_t column = (int64_t{kv_head} * args.group + row % args.group) * tiles.head_dim;
  const float* q = reinterpret_cast<const float*>(args.q) + token * args.q_stride + column;
  float maximum = 0, sum = 0;
  for (int index = 0; index <= position / kTokens; ++index) {
    const std::byte* block = args.cache + args.block_tables[chunk.first_block + index] * args.block_bytes;
    const auto* keys = reinterpret_cast<const float*>(block + tiles.key_offset(kv_head, own, 0));
    const auto* values = reinterpret_cast<const float*>(block + tiles.value_offset(kv_head, 0, 0));
    const int seen = min(position - index * kTokens + 1, kTokens);
    float score = 0;
    for (int64_t d = 0; own < seen && d < tiles.head_dim; ++d) score = __fmaf_rn(q[d], keys[d], score);
    score = own < seen ? score * args.scale : -__int_as_float(0x7F800000);
    const float largest =
        ceilf(combine_over_block(score, combined, [](float a, float b) { return fmaxf(a, b); }));
    const float p = own < seen ? exp2_of_negative(score - largest) : 0.0F;
    probabilities[own] = p;
    const float block_sum = combine_over_block(p, combined, [](float a, float b) { return a + b; });
    const Merge merge = Merge::of(index == 0 ? largest : maximum, largest);
    sum = index == 0 ? block_sum : merge(sum, block_sum);
    maximum = merge.maximum;
    for (int64_t d = own; d < tiles.head_dim; d += kFloatThreads) {
      float fresh = 0;
      for (int t = 0; t < seen; ++t)
        fresh = __fmaf_rn(probabilities[t], values[t * tiles.head_dim + d], fresh);
      out[d] = index == 0 ? fresh : merge(out[d], fresh);
    }
    __syncthreads();  // the probabilities have been read
  }
  float* to = reinterpret_cast<float*>(args.out) + token * args.out_stride + column;
  for (int64_t d = own; d < tiles.head_dim; d += kFloatThreads) to[d] = __fdiv_rn(out[d], sum);
}

}  // namespace chorale::cuda
