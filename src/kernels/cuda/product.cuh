// The product kernel: weights are the M operand, 64 stored rows for each consumer warpgroup, tokens the N
// operand.
//
// Producer threads keep a ring of stages in shared memory filled: weights by bulk copies of whole tiles, as
// they lie in memory, and rows of x by copies of 16 bytes into the same swizzle, so that rows may be
// gathered. Consumers multiply a stage at a time. Blocks of 16 inputs come in ascending order and an
// accumulator starts from zero for each chunk, so that the bits are the same for every configuration.
//
// Two consumer warpgroups share an item, 64 or 128 stored rows each, or take items by turns: then the
// epilogue of one runs under the products of the other.
#pragma once

#include <cstdint>

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product_args.h"
#include "kernels/cuda/wgmma.cuh"

namespace chorale::cuda {

// Tokens of a tile, tiles of K in a stage, k16 blocks of a chunk where it is no whole number of tiles of K
// (0: it is), consumer warpgroups, whether rows of x come by copies of 16 bytes, which can gather and begin
// soonest, else by tensor maps, which one thread asks for, and how consumer warpgroups share items.
template <int TileTokens, int StageTiles, int BlockChunk, int Groups, bool SmallCopies,
          Sharing How = Sharing::one_tile>
struct Shape {
  static constexpr int kTokens = TileTokens;
  static constexpr int kStageTiles = StageTiles;
  static constexpr int kBlockChunk = BlockChunk;
  static constexpr int kGroups = Groups;
  static constexpr bool kSmallCopies = SmallCopies;
  static constexpr bool kByTurns = How == Sharing::by_turns;
  static constexpr int kWeightTiles = How == Sharing::two_tiles ? 2 * Groups : Groups;  // of an item
  static constexpr int kGroupTiles = kByTurns ? Groups : kWeightTiles / Groups;  // of a consumer warpgroup
  // A warpgroup where registers change hands, or where there are many copies.
  static constexpr int kProducers = Groups == 2 || (SmallCopies && TileTokens >= 32) ? 128 : 32;
  static constexpr int kConsumers = Groups * 128;
  static constexpr int kReaders = kByTurns ? 4 : kConsumers / 32;  // warps that read a stage
  static constexpr int kThreads = kConsumers + kProducers;
  static constexpr int kWeightBytes = kWeightTiles * StageTiles * static_cast<int>(kTileBytes);
  static constexpr int kRowBytes = TileTokens * 128;  // of x, of one tile of K
  static constexpr int kStageBytes = kWeightBytes + StageTiles * kRowBytes;
  static constexpr int kBlocksPerSm = Groups == 1 && kStageBytes <= 40 * 1024 ? 2 : 1;
  // What is left beside 5 KB of the kernel's own and 1 KB of the system's for each block; two blocks of it
  // fill all 228 KB of a multiprocessor.
  static constexpr int kBudget = kBlocksPerSm == 2 ? 108 * 1024 : 222 * 1024;
};

// Shared memory: stages, and staging of the epilogue.
template <class S, class Epilogue>
struct Memory {
  static constexpr int kStaging = (S::kGroups * Epilogue::kStagingBytes + 1023) / 1024 * 1024;
  static constexpr int kFit = (S::kBudget - kStaging) / S::kStageBytes;
  static constexpr int kStages = kFit < 12 ? kFit : 12;
  static constexpr int kBytes = kStages * S::kStageBytes + kStaging;
  static_assert(kStages >= 2);
};

// The tiles of rows, in the order of experts.
struct RowTiles {
  const ProductArgs& args;
  const int* before;  // [E + 1] tiles before each expert, where `active` is not used
  int count;

  template <int Tokens>
  static __device__ __forceinline__ RowTiles make(const ProductArgs& args, int* before) {
    if (args.offsets == nullptr) return {args, before, (args.num_rows + Tokens - 1) / Tokens};
    if (args.active != nullptr) return {args, before, args.active[0]};
    for (int e = static_cast<int>(threadIdx.x); e < args.num_experts; e += static_cast<int>(blockDim.x))
      before[e + 1] = (args.offsets[e + 1] - args.offsets[e] + Tokens - 1) / Tokens;
    __syncthreads();
    if (threadIdx.x < 32) {
      int sum = 0;
      for (int first = 0; first < args.num_experts; first += 32) {
        const int e = first + static_cast<int>(threadIdx.x);
        int tiles = e < args.num_experts ? before[e + 1] : 0;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const int other = __shfl_up_sync(0xFFFFFFFFU, tiles, step);
          if (static_cast<int>(threadIdx.x) >= step) tiles += other;
        }
        if (e < args.num_experts) before[e + 1] = sum + tiles;
        sum += __shfl_sync(0xFFFFFFFFU, tiles, 31);
      }
      if (threadIdx.x == 0) before[0] = 0;
    }
    __syncthreads();
    return {args, before, before[args.num_experts]};
  }

  template <int Tokens>
  __device__ __forceinline__ RowTile at(int index) const {
    int expert = 0, in_expert = index, first = 0, end = args.num_rows;
    if (args.offsets != nullptr) {
      if (args.active != nullptr) {
        expert = args.active[1 + index];
        in_expert = 0;
      } else {
        int low = 0, high = args.num_experts - 1;  // the last expert with before <= index
        while (low < high) {
          const int middle = (low + high + 1) / 2;
          if (before[middle] <= index)
            low = middle;
          else
            high = middle - 1;
        }
        expert = low;
        in_expert = index - before[low];
      }
      first = args.offsets[expert];
      end = args.offsets[expert + 1];
    }
    first += in_expert * Tokens;
    return {expert, first, end - first < Tokens ? end - first : Tokens};
  }
};

// An item of work: a group of weight tiles, a tile of rows, and a share of the chunks.
struct Item {
  int group, row_tile, split;

  static __device__ __forceinline__ Item at(const ProductArgs& args, int row_tiles, int index) {
    const int split = index % args.splits;
    index /= args.splits;
    const int panel = index / (args.panel * row_tiles);
    const int rest = index - panel * args.panel * row_tiles;
    const int left = args.row_groups - panel * args.panel;
    const int width = left < args.panel ? left : args.panel;
    return {panel * args.panel + rest % width, rest / width, split};
  }
};

__device__ __forceinline__ const ProductTarget* target_of(const ProductArgs& args, int group) {
  int t = 0;
  for (int i = 1; i < args.num_targets; ++i)
    if (group >= args.targets[i].first_group) t = i;
  return &args.targets[t];
}

struct Ring {
  int stage = 0;
  uint32_t parity;
  template <int Stages>
  __device__ __forceinline__ void next() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1U;
    }
  }
  template <int Stages>
  __device__ __forceinline__ void skip(int stages) {
    for (stage += stages; stage >= Stages; stage -= Stages) parity ^= 1U;
  }
};

template <class S, class M>
struct Producer {
  static constexpr int kRowsOfThread = S::kSmallCopies ? S::kTokens * 8 / S::kProducers : 1;
  static constexpr int kRowStep = S::kProducers / 8;
  static constexpr uint32_t kNone = 0xFFFFFFFFU;

  const ProductArgs& args;
  const RowTiles& tiles;
  uint32_t base, full, empty;
  int stages_of_item;
  int thread;  // of the producers

  // Where an item's weights begin, and how many tiles of rows the matrix has from there on.
  struct Weights {
    const std::byte* data;
    int row_tiles;
  };
  __device__ __forceinline__ Weights weights_of(const Item& item, int expert) const {
    const int64_t k_tiles = args.k / kTile;
    const ProductTarget* target = target_of(args, item.group);
    const int row_tile = (item.group - target->first_group) * S::kWeightTiles;
    const int k_tile = item.split * stages_of_item * S::kStageTiles;
    return {target->weight + expert * args.expert_bytes + (row_tile * k_tiles + k_tile) * kTileBytes,
            target->row_tiles - row_tile};
  }
  // Asks for the weights of a stage, and says how many bytes it will have with those of a tensor map.
  __device__ __forceinline__ void fetch_weights(const Weights& weights, int stage) const {
    const uint32_t to = base + stage * S::kStageBytes;
    const int64_t k_tiles = args.k / kTile;
    barrier_expect(full + 8 * stage, S::kWeightBytes + kBoxBytes);
#pragma unroll
    for (int g = 0; g < S::kWeightTiles; ++g) {
      // A matrix may end within a group: its first tile comes again, and nobody stores what it gives.
      const int row_tile = g < weights.row_tiles ? g : 0;
      bulk_copy(to + g * S::kStageTiles * kTileBytes, weights.data + row_tile * k_tiles * kTileBytes,
                S::kStageTiles * kTileBytes, full + 8 * stage, args.weight_policy);
    }
  }
  static constexpr int kBoxBytes = S::kSmallCopies ? 0 : S::kRowBytes * S::kStageTiles;

  // The first item's weights are asked for before anything else is known, and, where they do not depend on
  // the kernels before, before those have ended. Returns of how many stages.
  __device__ __forceinline__ int fetch_ahead(int items) const {
    int fetched = 0;
    if (static_cast<int>(blockIdx.x) < items && thread == 0) {
      const Item item = Item::at(args, tiles.count, blockIdx.x);
      const RowTile rows = tiles.template at<S::kTokens>(item.row_tile);
      Weights weights = weights_of(item, rows.expert);
      for (; fetched < M::kStages && fetched < stages_of_item; ++fetched) {
        fetch_weights(weights, fetched);
        weights.data += S::kStageTiles * kTileBytes;
      }
    }
    return fetched;
  }

  __device__ __forceinline__ void run(int items) {
    if (!S::kSmallCopies && thread == 0) prefetch_tensor_map(&args.x_map);
    int fetched = fetch_ahead(items);
    if (args.offsets == nullptr) wait_for_previous();
    if (!S::kSmallCopies && thread != 0) return;
    const int piece = thread % 8;
    Ring ring{0, 1};
    for (int index = blockIdx.x; index < items; index += gridDim.x) {
      const Item item = Item::at(args, tiles.count, index);
      const RowTile rows = tiles.template at<S::kTokens>(item.row_tile);
      const int first_tile = item.split * stages_of_item * S::kStageTiles;
      Weights weights = weights_of(item, rows.expert);
      uint32_t offsets[kRowsOfThread];  // of rows of x, in units of 16 bytes
      if constexpr (S::kSmallCopies) {
#pragma unroll
        for (int i = 0; i < kRowsOfThread; ++i) {
          const int token = thread / 8 + i * kRowStep;
          offsets[i] = kNone;
          if (token < rows.count) {
            const int64_t row = args.gathers ? args.tokens[rows.first + token] : rows.first + token;
            offsets[i] = static_cast<uint32_t>((row * args.x_stride) / 16 + first_tile * 8 + piece);
          }
        }
      }
      for (int s = 0; s < stages_of_item; ++s) {
        barrier_wait(empty + 8 * ring.stage, ring.parity);
        if (thread == 0) {
          if (fetched > 0)
            --fetched;
          else
            fetch_weights(weights, ring.stage);
        }
        weights.data += S::kStageTiles * kTileBytes;
        const uint32_t to = base + ring.stage * S::kStageBytes + S::kWeightBytes;
#pragma unroll
        for (int k = 0; k < S::kStageTiles; ++k) {
          if constexpr (S::kSmallCopies) {
#pragma unroll
            for (int i = 0; i < kRowsOfThread; ++i) {
              const int token = thread / 8 + i * kRowStep;
              if (offsets[i] != kNone) {
                copy_16_bytes(to + k * S::kRowBytes + token * 128 + ((piece ^ (token % 8)) << 4),
                              args.x + static_cast<int64_t>(offsets[i]) * 16);
                offsets[i] += 8;
              }
            }
          } else {
            const int column = (first_tile + s * S::kStageTiles + k) * static_cast<int>(kTile);
            tensor_copy(to + k * S::kRowBytes, &args.x_map, column, rows.first, full + 8 * ring.stage);
          }
        }
        if constexpr (S::kSmallCopies) barrier_arrive_after_copies(full + 8 * ring.stage);
        ring.template next<M::kStages>();
      }
    }
  }
};

// One chunk's product with N of the tile's tokens. group: the first weight tile of the warpgroup's.
template <class S, class M>
struct Consumer {
  uint32_t base, full, empty;
  int group, lane;
  Ring ring{0, 0};

  __device__ __forceinline__ void release(int stage) const {
    if (lane == 0) barrier_arrive(empty + 8 * stage);
  }
  __device__ __forceinline__ void wait_full() const {
    barrier_wait(full + 8 * ring.stage, ring.parity);
    if constexpr (S::kSmallCopies) async_proxy_fence();
  }
  using Accumulators = float[S::kGroupTiles][S::kTokens / 2];
  template <int N, int First, int Count>
  __device__ __forceinline__ void multiply_blocks(Accumulators& acc, bool from_zero) const {
    const uint32_t stage = base + ring.stage * S::kStageBytes;
    const uint64_t a = swizzled_descriptor(stage + group * S::kStageTiles * static_cast<int>(kTileBytes));
    const uint64_t b = swizzled_descriptor(stage + S::kWeightBytes);
    wgmma_fence();
#pragma unroll
    for (int block = First; block < First + Count; ++block) {
#pragma unroll
      for (int t = 0; t < S::kGroupTiles; ++t)
        Wgmma<N>::multiply(
            acc[t], a + (t * S::kStageTiles + block / 4) * (kTileBytes / 16) + block % 4 * kDescriptorBlock,
            b + block / 4 * (S::kRowBytes / 16) + block % 4 * kDescriptorBlock, !from_zero || block != First);
    }
    wgmma_commit();
  }
  // The first stage of a chunk, where what accumulators held before must not take registers.
  template <int N>
  __device__ __forceinline__ void start_blocks(Accumulators& acc) const {
    static_assert(S::kGroupTiles == 1 && S::kStageTiles == 1);
    const uint32_t stage = base + ring.stage * S::kStageBytes;
    const uint64_t a = swizzled_descriptor(stage + group * static_cast<int>(kTileBytes));
    const uint64_t b = swizzled_descriptor(stage + S::kWeightBytes);
    wgmma_fence();
    Wgmma<N>::start(acc[0], a, b);
#pragma unroll
    for (int block = 1; block < 4; ++block)
      Wgmma<N>::multiply(acc[0], a + block * kDescriptorBlock, b + block * kDescriptorBlock, 1);
    wgmma_commit();
  }
  // A chunk of whole stages. The warpgroup whose turn is next may begin when these have all come.
  template <int N, class Epilogue>
  __device__ __forceinline__ void multiply_stages(Accumulators& acc, int stages, uint32_t next_turn) {
    int before = -1;
    if constexpr (Epilogue::kStarts) {
      wait_full();
      start_blocks<N>(acc);
      before = ring.stage;
      ring.template next<M::kStages>();
    }
    for (int s = Epilogue::kStarts ? 1 : 0; s < stages; ++s) {
      wait_full();
      multiply_blocks<N, 0, 4 * S::kStageTiles>(acc, s == 0);
      wgmma_wait<1>();
      if (before >= 0) release(before);
      before = ring.stage;
      ring.template next<M::kStages>();
    }
    if (S::kByTurns && lane == 0) barrier_arrive(next_turn);
    wgmma_wait<0>();
    release(before);
  }
  __device__ __forceinline__ void next_stage() {
    ring.template next<M::kStages>();
    wait_full();
  }
  template <int Limit, class F>
  static __device__ __forceinline__ void with_width(int tokens, F&& f) {
    if constexpr (Limit <= 16) {
      f.template operator()<Limit>();
    } else if constexpr (Limit <= 64) {
      if (tokens <= 8)
        f.template operator()<8>();
      else if (tokens <= 16)
        f.template operator()<16>();
      else if (Limit == 64 && tokens <= 32)
        f.template operator()<32>();
      else
        f.template operator()<Limit>();
    } else if constexpr (Limit == 128) {
      if (tokens <= 64)
        f.template operator()<64>();
      else if (tokens <= 96)
        f.template operator()<96>();
      else
        f.template operator()<128>();
    } else if constexpr (Limit == 112) {
      f.template operator()<Limit>();
    } else if constexpr (Limit == 160) {
      if (tokens <= 64)  // as an expert's last rows often are
        f.template operator()<64>();
      else if (tokens <= 128)
        f.template operator()<128>();
      else
        f.template operator()<160>();
    } else {
      if (tokens <= 128)
        f.template operator()<128>();
      else if (tokens <= 160)
        f.template operator()<160>();
      else if (tokens <= 192)
        f.template operator()<192>();
      else
        f.template operator()<256>();
    }
  }
};

template <class S, class Epilogue>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    multiply(const __grid_constant__ ProductArgs args) {
  using M = Memory<S, Epilogue>;
  extern __shared__ __align__(1024) std::byte memory[];
  __shared__ int tiles_before[kMaxExperts + 1];
  __shared__ uint64_t barriers[2 * M::kStages + 2];
  const uint32_t base = shared_address(memory), staging = base + M::kStages * S::kStageBytes;
  const uint32_t full = shared_address(barriers), empty = full + 8 * M::kStages;
  const uint32_t turns = empty + 8 * M::kStages;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < M::kStages; ++s) {
      barrier_init(full + 8 * s, S::kSmallCopies ? 1 + S::kProducers : 1);
      barrier_init(empty + 8 * s, S::kReaders);
    }
    for (int g = 0; g < 2; ++g) barrier_init(turns + 8 * g, S::kReaders);
    barrier_init_fence();
  }
  __syncthreads();
  // Which experts' weights are read depends on the kernels before; all other weights are fetched ahead.
  const bool grouped = args.offsets != nullptr;
  if (grouped) wait_for_previous();
  allow_next();
  const RowTiles tiles = RowTiles::make<S::kTokens>(args, tiles_before);
  const int items = tiles.count * args.row_groups * args.splits;
  const int stages_of_item = args.chunks * args.chunk_k / (S::kStageTiles * static_cast<int>(kTile));

  if (warp >= S::kConsumers / 32) {
    if constexpr (S::kGroups == 2) give_registers<72>();
    Producer<S, M> producer{
        args, tiles, base, full, empty, stages_of_item, static_cast<int>(threadIdx.x) - S::kConsumers};
    producer.run(items);
  } else {
    if constexpr (S::kGroups == 2) take_registers<216>();
    if (!grouped) wait_for_previous();
    const int group = warp / 4, first_tile = S::kByTurns ? 0 : group * S::kGroupTiles;
    Consumer<S, M> consumer{base, full, empty, first_tile, lane};
    uint32_t turn = group == 0 ? 1 : 0;  // parity of what the warpgroup waits for
    const int stages_of_chunk = args.chunk_k / (S::kStageTiles * static_cast<int>(kTile));
    // By turns, the second warpgroup begins with the second item, and each leaves out the other's.
    const int step = static_cast<int>(gridDim.x) * (S::kByTurns ? 2 : 1);
    const int first = static_cast<int>(blockIdx.x) + (S::kByTurns ? group * static_cast<int>(gridDim.x) : 0);
    if (S::kByTurns && group == 1) consumer.ring.template skip<M::kStages>(stages_of_item);
    for (int index = first; index < items; index += step) {
      const Item item = Item::at(args, tiles.count, index);
      Place place;
      place.rows = tiles.at<S::kTokens>(item.row_tile);
      place.target = target_of(args, item.group);
      place.row_tile = (item.group - place.target->first_group) * S::kWeightTiles + first_tile;
      place.row = place.row_tile * 64 + warp % 4 * 16 + lane / 4;
      place.lane = lane;
      typename Consumer<S, M>::Accumulators acc;
      Epilogue epilogue;
      epilogue.begin(args, place);
      if constexpr (S::kByTurns) {
        barrier_wait(turns + 8 * group, turn);
        turn ^= 1U;
      }
      if constexpr (S::kBlockChunk == 0) {
        for (int c = 0; c < args.chunks; ++c) {
          Consumer<S, M>::template with_width<S::kTokens>(place.rows.count, [&]<int N>() {
            consumer.template multiply_stages<N, Epilogue>(acc, stages_of_chunk, turns + 8 * (1 - group));
          });
          epilogue.chunk(args, place, acc[0]);
        }
      } else if constexpr (S::kStageTiles == 1) {
        static_assert(S::kBlockChunk == 6);  // two chunks in three stages
        for (int s = 0; s < stages_of_item; s += 3) {
          const int one = consumer.ring.stage;
          consumer.wait_full();
          consumer.template multiply_blocks<S::kTokens, 0, 4>(acc, true);
          consumer.next_stage();
          const int two = consumer.ring.stage;
          consumer.template multiply_blocks<S::kTokens, 0, 2>(acc, false);
          wgmma_wait<0>();
          consumer.release(one);
          epilogue.chunk(args, place, acc[0]);
          consumer.template multiply_blocks<S::kTokens, 2, 2>(acc, true);
          consumer.next_stage();
          consumer.template multiply_blocks<S::kTokens, 0, 4>(acc, false);
          wgmma_wait<0>();
          consumer.release(two);
          consumer.release(consumer.ring.stage);
          consumer.ring.template next<M::kStages>();
          epilogue.chunk(args, place, acc[0]);
        }
      } else {
        static_assert(4 * S::kStageTiles == 2 * S::kBlockChunk);
        for (int s = 0; s < stages_of_item; ++s) {
          consumer.wait_full();
          consumer.template multiply_blocks<S::kTokens, 0, S::kBlockChunk>(acc, true);
          wgmma_wait<0>();
          epilogue.chunk(args, place, acc[0]);
          consumer.template multiply_blocks<S::kTokens, S::kBlockChunk, S::kBlockChunk>(acc, true);
          wgmma_wait<0>();
          consumer.release(consumer.ring.stage);
          consumer.ring.template next<M::kStages>();
          epilogue.chunk(args, place, acc[0]);
        }
      }
#pragma unroll
      for (int t = 0; t < S::kGroupTiles; ++t) {
        epilogue.finish(args, place, acc[t], staging + group * Epilogue::kStagingBytes, group);
        ++place.row_tile;
        place.row += 64;
      }
      if constexpr (S::kByTurns) consumer.ring.template skip<M::kStages>(stages_of_item);
    }
    Epilogue::end();
  }
}

}  // namespace chorale::cuda
