// The product for shapes that the ring of product.cuh has no form for, and what its bits are compared with: a
// warp takes 16 stored rows and 8 tokens, and loads its operands element by element.
#pragma once

#include <cstdint>

#include "kernels/cuda/product.cuh"

namespace chorale::cuda {

inline constexpr int kPlainTokens = 8;
inline constexpr int kPlainRows = 16;
inline constexpr int kPlainWarps = 4;

__device__ __forceinline__ uint32_t load_pair(const uint16_t* low, const uint16_t* high, bool has_low,
                                              bool has_high) {
  return (has_low ? *low : 0U) | (has_high ? static_cast<uint32_t>(*high) << 16U : 0U);
}

template <class Epilogue>
__global__ void __launch_bounds__(kPlainWarps * 32) multiply_plain(const __grid_constant__ ProductArgs args) {
  __shared__ int tiles_before[kMaxExperts + 1];
  wait_for_previous();
  allow_next();
  const RowTiles tiles = RowTiles::make<kPlainTokens>(args, tiles_before);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int items = tiles.count * args.row_groups;
  const TiledLayout stored{0, args.k, 1, false};
  for (int index = static_cast<int>(blockIdx.x * kPlainWarps + threadIdx.x / 32); index < items;
       index += static_cast<int>(gridDim.x) * kPlainWarps) {
    const Item item = Item::at(args, tiles.count, index);
    Place place;
    place.rows = tiles.at<kPlainTokens>(item.row_tile);
    place.target = target_of(args, item.group);
    place.row = (item.group - place.target->first_group) * kPlainRows + lane / 4;
    place.lane = lane;
    const auto* weight =
        reinterpret_cast<const uint16_t*>(place.target->weight + place.rows.expert * args.expert_bytes);
    const bool has_token = lane / 4 < place.rows.count;
    const int row = place.rows.first + (has_token ? lane / 4 : 0);
    const int64_t x_row = args.gathers ? args.tokens[row] : row;
    const auto* x = reinterpret_cast<const uint16_t*>(args.x + x_row * args.x_stride);
    Epilogue epilogue;
    epilogue.begin(args, place);
    float acc[4];
    for (int chunk = 0; chunk < args.chunks; ++chunk) {
      const int64_t begin = static_cast<int64_t>(chunk) * args.chunk_k, end = begin + args.chunk_k;
#pragma unroll
      for (float& value : acc) value = 0;
      for (int64_t block = begin; block < end; block += kBlockK) {
        uint32_t a[4], b[2];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t k = block + lane % 4 * 2 + i / 2 * 8, r = place.row + i % 2 * 8;
          a[i] = load_pair(weight + stored.element(r, k), weight + stored.element(r, k + 1), k < end,
                           k + 1 < end);
          if (i % 2 == 0)
            b[i / 2] = load_pair(x + k, x + k + 1, has_token && k < end, has_token && k + 1 < end);
        }
        mma_16x8(acc, a, b[0], b[1]);
      }
      epilogue.chunk(args, place, acc);
    }
    epilogue.finish(args, place, acc, 0, 0);
  }
}

}  // namespace chorale::cuda
