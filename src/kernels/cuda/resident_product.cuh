// The product of many rows by matrices of few inputs, whose sums take more registers than its products: a
// tile of rows stays in shared memory with all of its inputs while the weights pass by, 64 stored rows for
// each of two consumer warpgroups at a time. So what is read for a product is the weights alone, and
// warpgroups need not keep step: one multiplies while the other adds.
#pragma once

#include <cstdint>

#include "kernels/cuda/digit_sums.cuh"
#include "kernels/cuda/product.cuh"

namespace chorale::cuda {

struct Resident {
  static constexpr int kTokens = 96;    // of a tile: as wide as registers and shared memory allow
  static constexpr int kMaxTiles = 12;  // of K
  static constexpr int kSlotBytes = kTokens * 128;
  static constexpr int kStages = 4;  // of one tile of weights, for each consumer warpgroup
  static constexpr int kGroups = 2;
  static constexpr int kConsumers = kGroups * 128;
  static constexpr int kThreads = kConsumers + 128;
  static constexpr int kLastTokens = round_up(kTokens / 2, 8);  // of a tile that is not full
  static constexpr int kSteps = 4;                              // groups of weight tiles of an item
  static constexpr int kBytes = kMaxTiles * kSlotBytes + kGroups * kStages * static_cast<int>(kTileBytes);

  // What is small of the shared memory.
  struct Small {
    // Of this item's rows and the next one's: gate weights, and the tokens that they belong to.
    float gate_weights[2][kTokens];
    int tokens[2][kTokens];
    uint64_t x_full[kMaxTiles], x_empty[kMaxTiles];
    uint64_t full[kGroups][kStages], empty[kGroups][kStages];
  };
  uint32_t x;  // shared memory: tiles of x, and then stages of weights
  uint32_t small;
  int k_tiles, items;

  __device__ __forceinline__ uint32_t weights(int group, int stage) const {
    return x + kMaxTiles * kSlotBytes + (group * kStages + stage) * static_cast<int>(kTileBytes);
  }
  __device__ __forceinline__ uint32_t x_full(int t) const {
    return small + static_cast<uint32_t>(offsetof(Small, x_full)) + 8 * t;
  }
  __device__ __forceinline__ uint32_t x_empty(int t) const {
    return small + static_cast<uint32_t>(offsetof(Small, x_empty)) + 8 * t;
  }
  __device__ __forceinline__ uint32_t full(int group, int stage) const {
    return small + static_cast<uint32_t>(offsetof(Small, full)) + 8 * (group * kStages + stage);
  }
  __device__ __forceinline__ uint32_t empty(int group, int stage) const {
    return small + static_cast<uint32_t>(offsetof(Small, empty)) + 8 * (group * kStages + stage);
  }
  __device__ __forceinline__ uint32_t gate_weights(uint32_t buffer) const {
    return small + buffer * kTokens * 4;
  }
  __device__ __forceinline__ uint32_t tokens(uint32_t buffer) const {
    return small + static_cast<uint32_t>(offsetof(Small, tokens)) + buffer * kTokens * 4;
  }

  struct Work {
    RowTile rows;
    int first_group, end_group;
  };
  __device__ __forceinline__ Work work(const ProductArgs& args, const RowTiles& tiles, int index) const {
    const int parts = (args.row_groups + kSteps - 1) / kSteps;
    const int first = index % parts * kSteps;
    const int end = first + kSteps < args.row_groups ? first + kSteps : args.row_groups;
    return {tiles.at<kTokens>(index / parts), first, end};
  }

  // One thread.
  __device__ __forceinline__ void fetch_weights(const ProductArgs& args, const RowTiles& tiles,
                                                int group) const {
    Ring ring{0, 1};
    for (int index = blockIdx.x; index < items; index += gridDim.x) {
      const Work w = work(args, tiles, index);
      const std::byte* matrix = args.targets[0].weight + w.rows.expert * args.expert_bytes;
      for (int g = w.first_group; g < w.end_group; ++g) {
        // A matrix may end within a group, whose first tile then comes again.
        const int row_tile = g * kGroups + (g * kGroups + group < args.targets[0].row_tiles ? group : 0);
        const std::byte* from = matrix + static_cast<int64_t>(row_tile) * k_tiles * kTileBytes;
        for (int t = 0; t < k_tiles; ++t, from += kTileBytes) {
          barrier_wait(empty(group, ring.stage), ring.parity);
          barrier_expect(full(group, ring.stage), kTileBytes);
          bulk_copy(weights(group, ring.stage), from, kTileBytes, full(group, ring.stage),
                    args.weight_policy);
          ring.next<kStages>();
        }
      }
    }
  }
  // A warp. When all have done with the first tile of an item, they have done with the item before it.
  __device__ __forceinline__ void fetch_rows(const ProductArgs& args, const RowTiles& tiles, int lane,
                                             bool weighted) const {
    uint32_t parity = 1, buffer = 0;
    for (int index = blockIdx.x; index < items; index += gridDim.x) {
      const RowTile rows = work(args, tiles, index).rows;
      float weight[kTokens / 32] = {};
      int token[kTokens / 32] = {};
#pragma unroll
      for (int i = 0; i < kTokens / 32; ++i) {
        const int t = i * 32 + lane;
        if (!weighted || t >= rows.count) continue;
        weight[i] = args.gate_weights[rows.first + t];
        token[i] = args.tokens[rows.first + t];
      }
      if (lane == 0) barrier_wait(x_empty(0), parity);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kTokens / 32; ++i) {
        if (!weighted) break;
        store_shared(gate_weights(buffer) + (i * 32 + lane) * 4, __float_as_uint(weight[i]));
        store_shared(tokens(buffer) + (i * 32 + lane) * 4, static_cast<uint32_t>(token[i]));
      }
      barrier_arrive(x_full(0));  // of the first tile, by all lanes
      if (lane == 0) {
        for (int t = 0; t < k_tiles; ++t) {
          if (t > 0) barrier_wait(x_empty(t), parity);
          barrier_expect(x_full(t), kSlotBytes);
          tensor_copy(x + t * kSlotBytes, &args.x_map, t * static_cast<int>(kTile), rows.first, x_full(t));
        }
      }
      __syncwarp();
      parity ^= 1U;
      buffer ^= 1U;
    }
  }
};

// A consumer warpgroup's products.
struct ResidentConsumer {
  const Resident& shared;
  int group, lane;
  uint32_t x_parity = 0;
  Ring ring{0, 0};

  // Waits for the next tile of weights, and for tile t of the rows.
  __device__ __forceinline__ void wait(int t) const {
    barrier_wait(shared.full(group, ring.stage), ring.parity);
    barrier_wait(shared.x_full(t), x_parity);
  }
  __device__ __forceinline__ void release(uint32_t empty) const {
    if (lane == 0) barrier_arrive(empty);
  }
  // Blocks First to First + Count - 1 of tile t.
  template <int N, int First, int Count, bool FromZero, int Size>
  __device__ __forceinline__ void multiply(float (&acc)[Size], int t) const {
    const uint64_t a = swizzled_descriptor(shared.weights(group, ring.stage));
    const uint64_t b = swizzled_descriptor(shared.x + t * Resident::kSlotBytes);
    wgmma_fence();
#pragma unroll
    for (int block = First; block < First + Count; ++block)
      if (FromZero && block == First)
        Wgmma<N>::start(acc, a + block * kDescriptorBlock, b + block * kDescriptorBlock);
      else
        Wgmma<N>::multiply(acc, a + block * kDescriptorBlock, b + block * kDescriptorBlock, 1);
    wgmma_commit();
  }
  // Two chunks, of tiles t to t + 2. leaves: of the rows nobody wants them any more.
  template <int N, int Size, class F>
  __device__ __forceinline__ void two_chunks(float (&acc)[Size], int t, bool leaves, F&& add) {
    wait(t);
    multiply<N, 0, 4, true>(acc, t);
    const uint32_t first = shared.empty(group, ring.stage);
    ring.next<Resident::kStages>();
    wait(t + 1);
    multiply<N, 0, 2, false>(acc, t + 1);
    wgmma_wait<0>();
    settle(acc);
    release(first);
    if (leaves) release(shared.x_empty(t));
    add();
    multiply<N, 2, 2, true>(acc, t + 1);
    const uint32_t second = shared.empty(group, ring.stage);
    ring.next<Resident::kStages>();
    wait(t + 2);
    multiply<N, 0, 4, false>(acc, t + 2);
    wgmma_wait<0>();
    settle(acc);
    release(second);
    release(shared.empty(group, ring.stage));
    ring.next<Resident::kStages>();
    add();
    if (leaves) {
      release(shared.x_empty(t + 1));
      release(shared.x_empty(t + 2));
    }
  }
};

template <class Output>
__global__ void __launch_bounds__(Resident::kThreads, 1)
    multiply_resident(const __grid_constant__ ProductArgs args) {
  using R = Resident;
  extern __shared__ __align__(1024) std::byte memory[];
  __shared__ int tiles_before[kMaxExperts + 1];
  __shared__ __align__(16) R::Small small;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tiles_of_k = static_cast<int>(args.k / kTile);
  R shared{shared_address(memory), shared_address(&small), tiles_of_k, 0};
  if (threadIdx.x == 0) {
    for (int t = 0; t < R::kMaxTiles; ++t) {
      barrier_init(shared.x_full(t), t == 0 ? 33 : 1);
      barrier_init(shared.x_empty(t), R::kConsumers / 32);
    }
    for (int s = 0; s < R::kGroups * R::kStages; ++s) {
      barrier_init(shared.full(0, s), 1);
      barrier_init(shared.empty(0, s), 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  wait_for_previous();
  allow_next();
  const RowTiles tiles = RowTiles::make<R::kTokens>(args, tiles_before);
  shared.items = tiles.count * ((args.row_groups + R::kSteps - 1) / R::kSteps);

  if (warp >= R::kConsumers / 32) {
    give_registers<40>();
    const int producer = warp - R::kConsumers / 32;
    if (producer < R::kGroups) {
      if (lane == 0) shared.fetch_weights(args, tiles, producer);
    } else if (producer == R::kGroups) {
      shared.fetch_rows(args, tiles, lane, Output::kWeighted);
    }
    return;
  }
  take_registers<232>();
  const int group = warp / 4;
  ResidentConsumer consumer{shared, group, lane};
  uint32_t buffer = 0;  // of gate weights
  for (int index = blockIdx.x; index < shared.items; index += gridDim.x) {
    const R::Work work = shared.work(args, tiles, index);
    Place place;
    place.rows = work.rows;
    place.lane = lane;
    for (int g = work.first_group; g < work.end_group; ++g) {
      place.row_tile = g * R::kGroups + group;
      place.row = place.row_tile * 64 + warp % 4 * 16 + lane / 4;
      const bool leaves = g + 1 == work.end_group;
      const auto multiply = [&]<int N>() {
        float acc[R::kTokens / 2];
        Digits<R::kTokens / 2> digits;
        Output output;
        digits.begin(args.chunks);
        int t = 0;
        do {  // at least once: a loop that might not run at all takes more registers
          consumer.two_chunks<N>(acc, t, leaves, [&] {
            add_chunk<N>(args, place, acc, digits, output, shared.gate_weights(buffer));
          });
          t += 3;
        } while (t < shared.k_tiles);
        if (place.row_tile < args.targets[0].row_tiles)
          output.template finish<N>(args, place, digits, shared.tokens(buffer));
      };
      if (work.rows.count <= R::kLastTokens)
        multiply.template operator()<R::kLastTokens>();
      else
        multiply.template operator()<R::kTokens>();
    }
    consumer.x_parity ^= 1U;
    buffer ^= 1U;
  }
}

}  // namespace chorale::cuda
