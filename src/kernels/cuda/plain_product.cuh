// The product for shapes that the ring of product.cuh has no form for, for float32, and what the ring's bits
// are compared with: a warp takes 16 stored rows and 8 tokens, and loads its operands element by element.
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

// Where the x row of a token of the tile begins.
__device__ __forceinline__ const std::byte* x_of(const ProductArgs& args, const Place& place, int token) {
  const int row = place.rows.first + token;
  return args.x + (args.gathers ? args.tokens[row] : row) * args.x_stride;
}

// What a thread multiplies: bf16, in tiles, on the tensor core.
struct TensorCoreOperands {
  const uint16_t* weight;
  const uint16_t* x;
  TiledLayout stored;
  int row, lane;
  bool has_token;

  __device__ __forceinline__ TensorCoreOperands(const ProductArgs& args, const Place& place,
                                                const std::byte* matrix)
      : weight(reinterpret_cast<const uint16_t*>(matrix)),
        stored{0, args.k, 1, false},
        row(place.row),
        lane(place.lane),
        has_token(place.lane / 4 < place.rows.count) {
    x = reinterpret_cast<const uint16_t*>(x_of(args, place, has_token ? lane / 4 : 0));
  }
  __device__ __forceinline__ void multiply(float (&acc)[4], int64_t begin, int64_t end) const {
    for (int64_t block = begin; block < end; block += kBlockK) {
      uint32_t a[4], b[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t k = block + lane % 4 * 2 + i / 2 * 8, r = row + i % 2 * 8;
        a[i] =
            load_pair(weight + stored.element(r, k), weight + stored.element(r, k + 1), k < end, k + 1 < end);
        if (i % 2 == 0)
          b[i / 2] = load_pair(x + k, x + k + 1, has_token && k < end, has_token && k + 1 < end);
      }
      mma_16x8(acc, a, b[0], b[1]);
    }
  }
};

// The same of float32 rows: fused multiply-adds, one input after the other.
struct FloatOperands {
  const float* weight[2];
  const float* x[2];

  // Of rows and tokens that are not there the last one is read; nobody stores what it gives.
  __device__ __forceinline__ FloatOperands(const ProductArgs& args, const Place& place,
                                           const std::byte* matrix) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = min(place.row + 8 * i, place.target->stored_rows - 1);
      weight[i] = reinterpret_cast<const float*>(matrix) + row * args.k;
      x[i] = reinterpret_cast<const float*>(
          x_of(args, place, min(token_of(i, place.lane), place.rows.count - 1)));
    }
  }
  __device__ __forceinline__ void multiply(float (&acc)[4], int64_t begin, int64_t end) const {
#pragma unroll 4
    for (int64_t k = begin; k < end; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[i] = __fmaf_rn(weight[i / 2][k], x[i % 2][k], acc[i]);
    }
  }
};

template <class Epilogue, class Operands>
__global__ void __launch_bounds__(kPlainWarps * 32) multiply_plain(const __grid_constant__ ProductArgs args) {
  __shared__ int tiles_before[kMaxExperts + 1];
  wait_for_previous();
  allow_next();
  const RowTiles tiles = RowTiles::make<kPlainTokens>(args, tiles_before);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int items = tiles.count * args.row_groups;
  for (int index = static_cast<int>(blockIdx.x * kPlainWarps + threadIdx.x / 32); index < items;
       index += static_cast<int>(gridDim.x) * kPlainWarps) {
    const Item item = Item::at(args, tiles.count, index);
    Place place;
    place.rows = tiles.at<kPlainTokens>(item.row_tile);
    place.target = target_of(args, item.group);
    place.row = (item.group - place.target->first_group) * kPlainRows + lane / 4;
    place.lane = lane;
    const Operands operands(args, place, place.target->weight + place.rows.expert * args.expert_bytes);
    Epilogue epilogue;
    epilogue.begin(args, place);
    float acc[4];
    for (int chunk = 0; chunk < args.chunks; ++chunk) {
      const int64_t begin = static_cast<int64_t>(chunk) * args.chunk_k;
#pragma unroll
      for (float& value : acc) value = 0;
      operands.multiply(acc, begin, begin + args.chunk_k);
      epilogue.chunk(args, place, acc);
    }
    epilogue.finish(args, place, acc, 0, 0);
  }
}

}  // namespace chorale::cuda
