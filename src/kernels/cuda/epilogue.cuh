// What becomes of the accumulators of a product. A thread's accumulators are those of one m16n8 fragment
// after the other: acc[4 g + 2 h + c] is stored row `row` + 8 h of the weights and token 8 g + 2 (lane % 4) +
// c of the tile.
#pragma once

#include <cstdint>

#include "kernels/cuda/fixed_point.cuh"
#include "kernels/cuda/float_math.h"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/product_args.h"

namespace chorale::cuda {

// The rows of the product that a tile covers.
struct RowTile {
  int expert = 0;
  int first = 0;
  int count = 0;  // valid ones
};

// Where an item's accumulators belong.
struct Place {
  RowTile rows;
  const ProductTarget* target = nullptr;  // of a plain product
  int row_tile = 0;                       // tile of 64 stored rows, from the target's first
  int row = 0;                            // stored row of this thread's h = 0
  int lane = 0;
};

__device__ __forceinline__ int token_of(int i, int lane) {
  return i / 4 * 8 + lane % 4 * 2 + i % 2;
}

// out[token][row] = acc (+ bias).
template <int Tokens>
struct StoreFloats {
  static constexpr int kStagingBytes = 0;
  static __device__ __forceinline__ void begin(const ProductArgs&, const Place&) {}
  __device__ __forceinline__ void chunk(const ProductArgs&, const Place&, const float (&)[Tokens / 2]) {}
  __device__ __forceinline__ void finish(const ProductArgs&, const Place& place,
                                         const float (&acc)[Tokens / 2], uint32_t, int) {
    const ProductTarget& target = *place.target;
    float bias[2] = {0, 0};
    if (target.bias != nullptr) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (place.row + 8 * h < target.n) bias[h] = target.bias[place.row + 8 * h];
    }
#pragma unroll
    for (int i = 0; i < Tokens / 2; i += 4) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int token = token_of(i + c, place.lane);
        if (token >= place.rows.count) continue;
        float* out = target.out + (place.rows.first + token) * target.out_stride + place.row;
        // Without a bias nothing is added, not even zero, which would turn -0 into 0.
        if (place.row < target.n) out[0] = target.bias != nullptr ? acc[i + c] + bias[0] : acc[i + c];
        if (place.row + 8 < target.n)
          out[8] = target.bias != nullptr ? acc[i + 2 + c] + bias[1] : acc[i + 2 + c];
      }
    }
  }
};

// out[row][output] = bf16(silu(gate) * up); h = 0 is gate, h = 1 up. `Staged`: through shared memory, 16
// bytes at a time; outputs are then a multiple of 8 and rows aligned.
template <int Tokens, bool Staged>
struct StoreGated {
  static constexpr int kStagingBytes = Staged ? Tokens * 64 : 0;  // per warpgroup
  static __device__ __forceinline__ void begin(const ProductArgs&, const Place&) {}
  __device__ __forceinline__ void chunk(const ProductArgs&, const Place&, const float (&)[Tokens / 2]) {}
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const float (&acc)[Tokens / 2], uint32_t staging, int group) {
    auto* out = reinterpret_cast<uint16_t*>(args.out);
    if constexpr (!Staged) {
      const int output = place.row / 16 * 8 + place.row % 8;
#pragma unroll
      for (int i = 0; i < Tokens / 2; i += 4) {
        const uint32_t pair = to_bf16_pair(silu(acc[i]) * acc[i + 2], silu(acc[i + 1]) * acc[i + 3]);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int token = token_of(i + c, place.lane);
          if (token < place.rows.count && output < args.n)
            out[(place.rows.first + token) * args.out_stride + output] =
                static_cast<uint16_t>(c == 0 ? pair & 0xFFFFU : pair >> 16U);
        }
      }
    } else {
      // Token t has 32 outputs, four pieces of 16 bytes, piece p at p ^ (t / 2 % 4).
      const int warp = threadIdx.x / 32 % 4;
      named_barrier(1 + group, 128);  // the tile before has left
#pragma unroll
      for (int g = 0; g < Tokens / 8; ++g) {
        const uint32_t pair = to_bf16_pair(silu(acc[4 * g]) * acc[4 * g + 2],  //
                                           silu(acc[4 * g + 1]) * acc[4 * g + 3]);
        const int token = 8 * g + place.lane % 8;
        store_transposed(staging + token * 64 + ((warp ^ (token / 2 % 4)) << 4), pair);
      }
      named_barrier(1 + group, 128);
      for (int piece = threadIdx.x % 128; piece < place.rows.count * 4; piece += 128) {
        const int token = piece / 4, p = piece % 4, output = place.row_tile * 32 + p * 8;
        if (output >= args.n) continue;
        uint4 values;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(values.x), "=r"(values.y), "=r"(values.z), "=r"(values.w)
                     : "r"(staging + token * 64 + ((p ^ (token / 2 % 4)) << 4)));
        *reinterpret_cast<uint4*>(out + (place.rows.first + token) * args.out_stride + output) = values;
      }
    }
  }
};

// sums[token][row] += fixed(weight * acc) of every chunk; fixed_point.h.
template <int Tokens>
struct AddFixed {
  static constexpr int kStagingBytes = 0;
  static constexpr int kThreadTokens = Tokens / 4;
  static constexpr bool kKeepsRows = Tokens <= 32;  // asks for rows of sums early, where registers allow
  long long sums[Tokens / 2];
  float weights[kThreadTokens];
  int out_rows[kKeepsRows ? kThreadTokens : 1];
  uint32_t not_finite[(kThreadTokens + 3) / 4];  // a count in 8 bits for each token

  // Which of the thread's tokens accumulator i belongs to.
  static __device__ __forceinline__ constexpr int of_thread(int i) { return i / 4 * 2 + i % 2; }
  static __device__ __forceinline__ int token(int t, int lane) { return t / 2 * 8 + lane % 4 * 2 + t % 2; }

  __device__ __forceinline__ void begin(const ProductArgs& args, const Place& place) {
#pragma unroll
    for (long long& sum : sums) sum = 0;
#pragma unroll
    for (uint32_t& count : not_finite) count = 0;
#pragma unroll
    for (int t = 0; t < kThreadTokens; ++t) {
      weights[t] = 1;
      if (token(t, place.lane) >= place.rows.count) continue;
      const int row = place.rows.first + token(t, place.lane);
      if (args.gate_weights != nullptr) weights[t] = args.gate_weights[row];
      if constexpr (kKeepsRows) out_rows[t] = out_row(args, row);
    }
  }
  __device__ __forceinline__ void chunk(const ProductArgs& args, const Place& place,
                                        const float (&acc)[Tokens / 2]) {
    // Rows beyond the matrix are zeros, and zero times infinity is not a number.
    const bool exists[2] = {place.row < args.n, place.row + 8 < args.n};
#pragma unroll
    for (int i = 0; i < Tokens / 2; ++i) {
      if (i / 4 * 8 >= place.rows.count) break;  // no tokens from here on
      const int t = of_thread(i);
      const float partial = __fmul_rn(acc[i], weights[t]);
      const bool finite = fabsf(partial) < __int_as_float(0x7F800000);
      sums[i] += to_fixed(finite ? partial : 0.0F);
      if (!finite && exists[i / 2 % 2]) not_finite[t / 4] += 1U << (t % 4 * 8);
    }
  }
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const float (&)[Tokens / 2], uint32_t, int) {
    auto* out = reinterpret_cast<long long*>(args.out);
#pragma unroll
    for (int t = 0; t < kThreadTokens; ++t) {
      if (token(t, place.lane) >= place.rows.count) continue;
      const int row = place.rows.first + token(t, place.lane);
      const int64_t to_row = kKeepsRows ? out_rows[kKeepsRows ? t : 0] : out_row(args, row);
      long long* to = out + to_row * args.out_stride;
      const int i = t / 2 * 4 + t % 2;
      if (place.row < args.n) add(to + place.row, sums[i]);
      if (place.row + 8 < args.n) add(to + place.row + 8, sums[i + 2]);
      const uint32_t count = not_finite[t / 4] >> (t % 4 * 8) & 0xFFU;
      if (count != 0) add(to + args.n, count);
    }
  }

 private:
  static __device__ __forceinline__ int out_row(const ProductArgs& args, int row) {
    return args.tokens != nullptr ? args.tokens[row] : row;
  }
  static __device__ __forceinline__ void add(long long* sum, long long value) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(sum), "l"(value) : "memory");
  }
};

// What a count of AddFixed holds: two rows of each chunk.
inline constexpr int kMaxSumChunks = 127;

}  // namespace chorale::cuda
