// Attention of many rows by warpgroup products: two warpgroups have 64 rows each and walk the blocks of
// tokens that their rows see, which a third fetches. A warpgroup asks for the scores of the next block of
// tokens and for the product with this block's values, and takes the next one's probabilities while the
// values are multiplied.
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace chorale::cuda {

constexpr int kGroupRows = 64;
constexpr int kManyGroups = 2;
constexpr int kManyRows = kManyGroups * kGroupRows;
constexpr int kManyStages = 5;  // of blocks of tokens in shared memory
constexpr int kManyThreads = (kManyGroups + 1) * 128;

// The tiles of one thread block, one after the other: one, or a long one and a short one, so that all blocks
// have the same work.
struct ManyTiles {
  int first, second;  // second: -1 where there is none

  static __device__ __forceinline__ ManyTiles of(const AttentionArgs& args, int num_rows) {
    const int count = (num_rows + kManyRows - 1) / kManyRows, index = static_cast<int>(blockIdx.z);
    const int last = count - 1 - index;
    if (!args.pairs) return {last, -1};  // those that see most begin first
    return last < index ? ManyTiles{-1, -1} : ManyTiles{last, last > index ? index : -1};
  }
};

// The blocks of tokens that the rows of a tile see.
__device__ __forceinline__ int blocks_of_tile(const AttentionArgs& args, const Chunk& chunk, int tile) {
  const int last_row = min((tile + 1) * kManyRows, chunk.num_tokens * args.group) - 1;
  return (chunk.first_position + last_row / args.group) / kTokens + 1;
}

// A warpgroup's state; what is of two rows is of the thread's rows l / 4 and 8 more of its warp's 16.
template <int DimBlocks>
struct ManyRows {
  using T = Tile<DimBlocks>;
  static constexpr int kColumns = (T::kDim + 63) / 64 * 64;  // of values, with those beyond D

  uint32_t full, empty, stages, queries;
  int position[2];
  float out[kColumns / 2], fresh[kColumns / 2], scores[kTokens / 2];
  uint32_t p[kTokens / 16][4];
  float maximum[2], sum[2];
  float old_scale[2], new_scale[2];  // of the block whose probabilities are in p

  __device__ __forceinline__ uint32_t stage_of(int step) const {
    return stages + step % kManyStages * T::kHeadBytes;
  }

  // Until a block of tokens is there, if there is to be one.
  __device__ __forceinline__ void await(int step, bool exists) const {
    if (exists) barrier_wait(full + 8 * (step % kManyStages), static_cast<uint32_t>(step / kManyStages % 2));
  }

  // Rows of queries to shared memory, in the swizzle of a tile.
  __device__ __forceinline__ void load_queries(const AttentionArgs& args, const Chunk& chunk, int kv_head,
                                               int first_row) const {
    const int thread = static_cast<int>(threadIdx.x) % 128, last = chunk.num_tokens * args.group - 1;
#pragma unroll 8
    for (int i = thread; i < kGroupRows * DimBlocks * 2; i += 128) {
      const int r = i / (DimBlocks * 2), piece = i % (DimBlocks * 2);
      const int row = min(first_row + r, last);  // the last one again where there is none
      const auto* from =
          reinterpret_cast<const uint32_t*>(args.q + (chunk.first_token + row / args.group) * args.q_stride +
                                            (kv_head * args.group + row % args.group) * T::kDim + piece * 8);
      const uint32_t values[4] = {from[0], from[1], from[2], from[3]};
      store_shared(queries + piece / 8 * static_cast<int>(kTileBytes) + r * 128 + ((piece % 8 ^ r % 8) << 4),
                   values);
    }
  }

  __device__ __forceinline__ void multiply_keys(uint32_t keys) {
#pragma unroll
    for (int d = 0; d < DimBlocks; ++d) {
      const int offset = d / 4 * static_cast<int>(kTileBytes);
      Wgmma<kTokens>::multiply(scores, swizzled_descriptor(queries + offset) + d % 4 * kDescriptorBlock,
                               swizzled_descriptor(keys + offset) + d % 4 * kDescriptorBlock, d > 0);
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void multiply_values(uint32_t keys) {
    const uint64_t values = values_descriptor(keys + T::kKeyBytes, static_cast<uint32_t>(kTileBytes));
#pragma unroll
    for (int k = 0; k < kTokens / 16; ++k)
      WgmmaValues<kColumns>::multiply(fresh, p[k], values + k * kValuesBlock, k > 0);
    wgmma_commit();
  }

  // Scores to probabilities in float32. What a row has seen so far takes them in.
  template <bool Masked>
  __device__ __forceinline__ void take_scores(float scale, int first_position, bool is_first) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int visible = position[h] - first_position;  // the last token that is seen
      float largest_of[4];                               // four chains in place of a long one
#pragma unroll
      for (float& largest : largest_of) largest = -__int_as_float(0x7F800000);
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = scores[j * 4 + 2 * h + c];
          if constexpr (Masked) score = j * 8 + column + c <= visible ? score : -__int_as_float(0x7F800000);
          largest_of[j % 2 * 2 + c] = fmaxf(largest_of[j % 2 * 2 + c], score);
        }
      }
      float largest = fmaxf(fmaxf(largest_of[0], largest_of[1]), fmaxf(largest_of[2], largest_of[3]));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 2));
      largest = ceilf(__fmul_rn(largest, scale));
      const float subtracted = Masked && visible < 0 ? 0.0F : largest;  // all are -infinity then
      float block_sum = 0;
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = scores[j * 4 + 2 * h + c];
          score = probability(score, scale, subtracted);
          block_sum += score;
        }
      }
      block_sum += __shfl_xor_sync(0xFFFFFFFFU, block_sum, 1);
      block_sum += __shfl_xor_sync(0xFFFFFFFFU, block_sum, 2);
      // All rows see the first block.
      const Merge merge = Merge::of(is_first ? largest : maximum[h], largest);
      sum[h] = is_first ? block_sum : merge(sum[h], block_sum);
      maximum[h] = merge.maximum;
      old_scale[h] = merge.old_scale;
      new_scale[h] = merge.new_scale;
    }
  }
  __device__ __forceinline__ void round_probabilities() {
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        p[j / 2][h + j % 2 * 2] = to_bf16_pair(scores[j * 4 + 2 * h], scores[j * 4 + 2 * h + 1]);
    }
  }
  // The block's product with the values, which `rescale` and `factor` belong to. Mostly the maximum stays as
  // it is and the old sum is multiplied by one.
  __device__ __forceinline__ void merge_values(const float (&rescale)[2], const float (&factor)[2]) {
    if (__any_sync(0xFFFFFFFFU, rescale[0] != 1 || rescale[1] != 1)) {
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) out[i] = __fmul_rn(out[i], rescale[i / 2 % 2]);
    }
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) out[i] = __fmaf_rn(fresh[i], factor[i / 2 % 2], out[i]);
  }

  // The scores of block `block` + 1 while block `block` is multiplied with its values.
  template <bool Masked>
  __device__ __forceinline__ void advance(float scale, int block, int blocks, int step) {
    const uint32_t now = stage_of(step), next = stage_of(step + 1);
    settle(fresh);
    settle(scores);
    wgmma_fence();
    multiply_keys(next);
    multiply_values(now);
    wgmma_wait<1>();
    settle(scores);
    const float rescale[2] = {old_scale[0], old_scale[1]}, factor[2] = {new_scale[0], new_scale[1]};
    take_scores<Masked>(scale, (block + 1) * kTokens, false);
    // Here, since the compiler moves no arithmetic across a loop: it stays before the end of the product.
    await(step + 2, block + 2 < blocks);
    wgmma_wait<0>();
    settle(fresh);
    settle(scores);
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * (step % kManyStages));
    merge_values(rescale, factor);
    round_probabilities();
  }

  // All blocks of tokens of one tile; `step` counts those of the thread block.
  __device__ __forceinline__ void walk(float scale, int blocks, int unmasked, int step) {
    await(step, true);
    settle(scores);
    wgmma_fence();
    multiply_keys(stage_of(step));
    wgmma_wait<0>();
    settle(scores);
    take_scores<true>(scale, 0, true);
    await(step + 1, blocks > 1);
    round_probabilities();
    // Minus zero adds nothing to anything.
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) out[i] = -0.0F;
    int block = 0;
#pragma unroll 1
    for (; block + 1 < unmasked; ++block) advance<false>(scale, block, blocks, step + block);
#pragma unroll 1
    for (; block + 1 < blocks; ++block) advance<true>(scale, block, blocks, step + block);
    settle(fresh);
    wgmma_fence();
    multiply_values(stage_of(step + block));
    wgmma_wait<0>();
    settle(fresh);
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * ((step + block) % kManyStages));
    merge_values(old_scale, new_scale);
  }

  // out / sum, rounded to nearest. Mostly by one reciprocal for all of a row: where nothing is near the ends
  // of float's range, its remainder corrects the quotient, twice, to the same bits.
  __device__ __forceinline__ void divide() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float least = fabsf(out[2 * h]), most = fabsf(out[2 * h]);
#pragma unroll
      for (int g = 0; g < T::kDim / 8; ++g) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          least = fminf(least, fabsf(out[g * 4 + 2 * h + c]));
          most = fmaxf(most, fabsf(out[g * 4 + 2 * h + c]));
        }
      }
      const bool is_safe = least > 0x1p-60F && most < 0x1p60F && sum[h] >= 0.5F && sum[h] < 0x1p40F;
      if (__all_sync(0xFFFFFFFFU, is_safe)) {
        const float reciprocal = __frcp_rn(sum[h]);
#pragma unroll
        for (int g = 0; g < T::kDim / 8; ++g) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& value = out[g * 4 + 2 * h + c];
            float quotient = __fmul_rn(value, reciprocal);
            quotient = __fmaf_rn(__fmaf_rn(-quotient, sum[h], value), reciprocal, quotient);
            value = __fmaf_rn(__fmaf_rn(-quotient, sum[h], value), reciprocal, quotient);
          }
        }
      } else {
#pragma unroll
        for (int g = 0; g < T::kDim / 8; ++g) {
#pragma unroll
          for (int c = 0; c < 2; ++c) out[g * 4 + 2 * h + c] = __fdiv_rn(out[g * 4 + 2 * h + c], sum[h]);
        }
      }
    }
  }

  // The rows from `first_row` on.
  __device__ __forceinline__ void store(const AttentionArgs& args, const Chunk& chunk, int kv_head,
                                        int first_row) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = T::row_of(first_row + static_cast<int>(threadIdx.x) % 128 / 32 * kWarpRows, h);
      if (row >= chunk.num_tokens * args.group) continue;
      uint16_t* to = args.out + (chunk.first_token + row / args.group) * args.out_stride +
                     T::column_of(args, kv_head, row);
#pragma unroll
      for (int g = 0; g < T::kDim / 8; ++g)
        *reinterpret_cast<uint32_t*>(to + g * 8) = to_bf16_pair(out[g * 4 + 2 * h], out[g * 4 + 2 * h + 1]);
    }
  }
};

template <int DimBlocks>
__global__ void __launch_bounds__(kManyThreads, 1) attend_many(const __grid_constant__ AttentionArgs args) {
  using T = Tile<DimBlocks>;
  extern __shared__ __align__(1024) std::byte memory[];
  __shared__ uint64_t barriers[2 * kManyStages];
  const uint32_t base = shared_address(memory), full = shared_address(barriers),
                 empty = full + 8 * kManyStages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kManyStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, kManyGroups * 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  wait_for_previous();
  allow_next();
  const Chunk chunk = Chunk::at(args, static_cast<int>(blockIdx.y));
  const ManyTiles tiles = ManyTiles::of(args, chunk.num_tokens * args.group);
  if (chunk.num_tokens <= args.few_tokens || tiles.first < 0) return;
  const int kv_head = static_cast<int>(blockIdx.x);
  const int group = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x) / 128, 0);

  if (group == kManyGroups) {
    give_registers<24>();
    if (threadIdx.x != kManyGroups * 128) return;
    const std::byte* cache = args.cache + kv_head * T::kHeadBytes;
    int step = 0;
    for (int tile = tiles.first; tile >= 0; tile = tile == tiles.first ? tiles.second : -1) {
      const int blocks = blocks_of_tile(args, chunk, tile);
      for (int b = 0; b < blocks; ++b, ++step) {
        const uint32_t stage = static_cast<uint32_t>(step % kManyStages);
        barrier_wait(empty + 8 * stage, static_cast<uint32_t>(step / kManyStages % 2) ^ 1U);
        barrier_expect(full + 8 * stage, T::kHeadBytes);
        bulk_copy(base + stage * T::kHeadBytes,
                  cache + args.block_tables[chunk.first_block + b] * args.block_bytes, T::kHeadBytes,
                  full + 8 * stage, kEvictNormal);
      }
    }
  } else {
    take_registers<240>();
    ManyRows<DimBlocks> rows;
    rows.full = full;
    rows.empty = empty;
    rows.stages = base;
    const uint32_t queries = base + kManyStages * T::kHeadBytes + group * 2 * T::kKeyBytes;
    const int last = chunk.num_tokens * args.group - 1;
    // Of both tiles, so that the second does not wait.
    for (int turn = 0; turn < 2; ++turn) {
      const int tile = turn == 0 ? tiles.first : tiles.second;
      rows.queries = queries + turn * T::kKeyBytes;
      if (tile >= 0) rows.load_queries(args, chunk, kv_head, tile * kManyRows + group * kGroupRows);
    }
    async_proxy_fence();
    named_barrier(1 + group, 128);
    int step = 0;
    for (int turn = 0; turn < 2; ++turn) {
      const int tile = turn == 0 ? tiles.first : tiles.second;
      if (tile < 0) break;
      rows.queries = queries + turn * T::kKeyBytes;
      const int first_row = tile * kManyRows + group * kGroupRows;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = T::row_of(first_row + static_cast<int>(threadIdx.x) % 128 / 32 * kWarpRows, h);
        rows.position[h] = chunk.first_position + min(row, last) / args.group;
      }
      const int blocks = blocks_of_tile(args, chunk, tile);
      const int unmasked = (chunk.first_position + min(first_row, last) / args.group + 1) / kTokens;
      rows.walk(args.scale, blocks, unmasked, step);
      step += blocks;
      rows.divide();
      rows.store(args, chunk, kv_head, first_row);
    }
  }
}

}  // namespace chorale::cuda
