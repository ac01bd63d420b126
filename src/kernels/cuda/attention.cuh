// What the two ways of attention share (attention.cu): arguments, and how blocks of tokens are merged.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/float_math.h"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"

namespace chorale::cuda {

constexpr int kTokens = static_cast<int>(kKvTokens);
constexpr int kWarpRows = 16;

struct AttentionArgs {
  const uint16_t* q = nullptr;
  int64_t q_stride = 0;
  uint16_t* out = nullptr;
  int64_t out_stride = 0;
  const std::byte* cache = nullptr;
  int64_t block_bytes = 0;
  const int32_t* chunks = nullptr;
  int64_t chunk_stride = 0;
  int num_chunks = 0;
  const int32_t* block_tables = nullptr;
  int num_table_blocks = 0;
  float* partials = nullptr;
  int num_kv_heads = 0;
  int group = 0;       // query heads that share a KV head
  int few_tokens = 0;  // chunks of at most so many tokens are taken by few rows
  bool pairs = false;  // a thread block of many rows takes two tiles
  float scale = 0;     // log2(e) / sqrt(D)
};

struct Chunk {
  int first_token, num_tokens, first_position, first_block;

  static __device__ __forceinline__ Chunk at(const AttentionArgs& args, int index) {
    const int32_t* row = args.chunks + index * args.chunk_stride;
    return {row[SegmentColumn::first_token], row[SegmentColumn::num_tokens],
            row[SegmentColumn::first_position], row[SegmentColumn::first_block]};
  }
  __device__ __forceinline__ int num_blocks() const {
    return (first_position + num_tokens + kTokens - 1) / kTokens;
  }
};

// A thread's two rows of a warp's tile: l / 4 and 8 more.
template <int DimBlocks>
struct Tile {
  static constexpr int kDim = DimBlocks * 16;
  static constexpr int kKeyBytes = (kDim + 63) / 64 * static_cast<int>(kTileBytes);
  static constexpr int kHeadBytes = 2 * kKeyBytes;

  uint32_t q[DimBlocks][4];
  int position[2];

  __device__ __forceinline__ void load(const AttentionArgs& args, const Chunk& chunk, int kv_head,
                                       int first_row) {
    const int last = chunk.num_tokens * args.group - 1;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = min(row_of(first_row, h), last);  // the last one again where there is none
      position[h] = chunk.first_position + row / args.group;
      const uint16_t* from =
          args.q + (chunk.first_token + row / args.group) * args.q_stride + column_of(args, kv_head, row);
#pragma unroll
      for (int d = 0; d < DimBlocks; ++d) {
        q[d][h] = *reinterpret_cast<const uint32_t*>(from + d * 16);
        q[d][h + 2] = *reinterpret_cast<const uint32_t*>(from + d * 16 + 8);
      }
    }
  }
  static __device__ __forceinline__ int row_of(int first_row, int h) {
    return first_row + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * h;
  }
  static __device__ __forceinline__ int column_of(const AttentionArgs& args, int kv_head, int row) {
    return (kv_head * args.group + row % args.group) * kDim + static_cast<int>(threadIdx.x) % 4 * 2;
  }
};

// What a row has seen so far.
struct Merge {
  float maximum, old_scale, new_scale;
  static __device__ __forceinline__ Merge of(float total, float block) {
    const float maximum = fmaxf(total, block);
    return {maximum, exp2_of_negative_integer(total - maximum), exp2_of_negative_integer(block - maximum)};
  }
  __device__ __forceinline__ float operator()(float total, float block) const {
    return __fmaf_rn(block, new_scale, __fmul_rn(total, old_scale));
  }
};

// The probability of a score beside the block's maximum: one rounding, then the hardware's 2^x, which flushes
// what is below 2^-126 and lets NaN pass.
__device__ __forceinline__ float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ float probability(float score, float scale, float maximum) {
  return exp2_approximate(__fmaf_rn(score, scale, -maximum));
}

// The probabilities of a block of tokens as operands of the product with the values, and what merging needs.
struct Probabilities {
  uint32_t p[kTokens / 16][4];
  float maximum[2];
  float sum[2];
};

// scores: of a thread's two rows and its tokens of each 8, the accumulators of mma_16x8 one after the other.
__device__ __forceinline__ Probabilities probabilities_of(float (&scores)[kTokens / 8][4],
                                                          const int (&position)[2], float scale,
                                                          int first_position) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Probabilities result;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int visible = position[h] - first_position;  // the last token that is seen
    float largest = -__int_as_float(0x7F800000);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& score = scores[j][2 * h + c];
        score = j * 8 + lane % 4 * 2 + c <= visible ? score : -__int_as_float(0x7F800000);
        largest = fmaxf(largest, score);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 2));
    const float maximum = ceilf(__fmul_rn(largest, scale));
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const bool seen = j * 8 + lane % 4 * 2 + c <= visible;
        float& score = scores[j][2 * h + c];
        score = seen ? probability(score, scale, maximum) : 0.0F;
        sum += score;
      }
      result.p[j / 2][h + j % 2 * 2] = to_bf16_pair(scores[j][2 * h], scores[j][2 * h + 1]);
    }
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
    result.sum[h] = sum + __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
    result.maximum[h] = maximum;
  }
  return result;
}

}  // namespace chorale::cuda
