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
  static constexpr bool kStarts = false;
  static constexpr int kStagingBytes = 0;
  static __device__ __forceinline__ void begin(const ProductArgs&, const Place&) {}
  static __device__ __forceinline__ void end() {}
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

// out[row][output] = weight * acc in float32: the partial sums of an only chunk (partial_sums.h).
template <int Tokens>
struct StorePartials {
  static constexpr bool kStarts = false;
  static constexpr int kStagingBytes = 0;
  float of_lane[Tokens / 32];  // weights of tokens lane, lane + 32, ...

  __device__ __forceinline__ void begin(const ProductArgs& args, const Place& place) {
#pragma unroll
    for (int i = 0; i < Tokens / 32; ++i) {
      const int token = place.lane + 32 * i;
      of_lane[i] = 1;
      if (args.gate_weights != nullptr && token < place.rows.count)
        of_lane[i] = args.gate_weights[place.rows.first + token];
    }
  }
  static __device__ __forceinline__ void end() {}
  __device__ __forceinline__ void chunk(const ProductArgs&, const Place&, const float (&)[Tokens / 2]) {}
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const float (&acc)[Tokens / 2], uint32_t, int) {
    const bool exists[2] = {place.row < args.n, place.row + 8 < args.n};
    float* out = reinterpret_cast<float*>(args.out) +
                 (place.rows.first + token_of(0, place.lane)) * args.out_stride + place.row;
#pragma unroll
    for (int i = 0; i < Tokens / 2; i += 4) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int token = token_of(i + c, place.lane);
        const float weight = __shfl_sync(0xFFFFFFFFU, of_lane[i / 16], token % 32);
        if (token < place.rows.count) {
          float* to = out + c * args.out_stride;
          if (exists[0]) to[0] = __fmul_rn(acc[i + c], weight);
          if (exists[1]) to[8] = __fmul_rn(acc[i + 2 + c], weight);
        }
      }
      out += 8 * args.out_stride;
    }
  }
};

// out[row][output] = silu(gate) * up, as bf16 or float32; h = 0 is gate, h = 1 up. `Staged`: through shared
// memory, 16 bytes at a time; outputs are then a multiple of 8, of bf16, and rows aligned.
template <int Tokens, bool Staged, typename Out = uint16_t>
struct StoreGated {
  static_assert(!Staged || sizeof(Out) == 2);
  static constexpr bool kStarts = false;
  static constexpr int kStagingBytes = Staged ? Tokens * 64 : 0;  // per warpgroup
  static __device__ __forceinline__ void begin(const ProductArgs&, const Place&) {}
  static __device__ __forceinline__ void end() {}
  __device__ __forceinline__ void chunk(const ProductArgs&, const Place&, const float (&)[Tokens / 2]) {}
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const float (&acc)[Tokens / 2], uint32_t staging, int group) {
    auto* out = reinterpret_cast<Out*>(args.out);
    if constexpr (!Staged) {
      const int output = place.row / 16 * 8 + place.row % 8;
#pragma unroll
      for (int i = 0; i < Tokens / 2; i += 4) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int token = token_of(i + c, place.lane);
          const float value = silu(acc[i + c]) * acc[i + 2 + c];
          if (token >= place.rows.count || output >= args.n) continue;
          Out& to = out[(place.rows.first + token) * args.out_stride + output];
          if constexpr (sizeof(Out) == 2)
            to = static_cast<uint16_t>(to_bf16_pair(value, 0) & 0xFFFFU);
          else
            to = value;
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

// sums[token][row] += fixed(weight * acc) of every chunk; fixed_point.h. `Staged`: through shared memory, a
// row's 64 sums at a time by the copy engine, which adds while the next item is multiplied.
template <int Tokens, bool Staged>
struct AddFixed {
  static_assert(!Staged || Tokens == 64);
  // A row of sums may begin in the middle of 16 bytes, in global memory and so in shared memory.
  static constexpr int kStagedRow = (64 + 2) * 8;
  static constexpr bool kStarts = false;
  static constexpr int kStagingBytes = Staged ? Tokens * kStagedRow : 0;  // per warpgroup
  static constexpr int kThreadTokens = Tokens / 4;
  // Asks for rows of sums early: of the thread's tokens, where registers allow, or of tokens lane and lane +
  // 32.
  static constexpr bool kKeepsRows = Tokens <= 32;
  // Whether it finds out first that no partial sum is special, which takes registers and saves steps.
  static constexpr bool kLooksFirst = Tokens <= 32 || Staged;
  static constexpr int kRows = Staged ? 2 : kKeepsRows ? kThreadTokens : 1;
  long long sums[Tokens / 2];
  float weights[kThreadTokens];
  int out_rows[kRows];
  uint32_t not_finite[(kThreadTokens + 3) / 4];  // a count in 8 bits for each token

  // Which of the thread's tokens accumulator i belongs to.
  static __device__ __forceinline__ constexpr int of_thread(int i) { return i / 4 * 2 + i % 2; }
  static __device__ __forceinline__ int token(int t, int lane) { return t / 2 * 8 + lane % 4 * 2 + t % 2; }

  __device__ __forceinline__ void begin(const ProductArgs& args, const Place& place) {
#pragma unroll
    for (long long& sum : sums) sum = 0;
#pragma unroll
    for (uint32_t& count : not_finite) count = 0;
    if constexpr (Staged) {
      float of_lane[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = place.lane + 32 * i, row = place.rows.first + t;
        const bool is_valid = t < place.rows.count;
        of_lane[i] = is_valid ? weight_of(args, row) : 0;
        out_rows[i] = is_valid ? out_row(args, row) : 0;
      }
#pragma unroll
      for (int t = 0; t < kThreadTokens; ++t)
        weights[t] = __shfl_sync(0xFFFFFFFFU, of_lane[t / 8], token(t, place.lane) % 32);
    } else {
#pragma unroll
      for (int t = 0; t < kThreadTokens; ++t) {
        weights[t] = 0;
        if (token(t, place.lane) >= place.rows.count) continue;
        const int row = place.rows.first + token(t, place.lane);
        weights[t] = weight_of(args, row);
        if constexpr (kKeepsRows) out_rows[t] = out_row(args, row);
      }
    }
  }
  __device__ __forceinline__ void chunk(const ProductArgs& args, const Place& place,
                                        const float (&acc)[Tokens / 2]) {
    if constexpr (kLooksFirst) {
      float partial[Tokens / 2];
      bool is_large = false;  // something saturates or is not a number
#pragma unroll
      for (int i = 0; i < Tokens / 2; ++i) {
        partial[i] = __fmul_rn(acc[i], weights[of_thread(i)]);
        is_large |= !(fabsf(partial[i]) < kFixedSaturation);
      }
      if (!is_large) {
#pragma unroll
        for (int i = 0; i < Tokens / 2; ++i) {
          if (!Staged && i / 4 * 8 >= place.rows.count) break;  // no tokens from here on
          sums[i] += __float2ll_rn(partial[i] * kFixedOne);
        }
        return;
      }
    }
    // Rows beyond the matrix are zeros, and zero times infinity is not a number.
    const bool exists[2] = {place.row < args.n, place.row + 8 < args.n};
#pragma unroll
    for (int i = 0; i < Tokens / 2; ++i) {
      if (i / 4 * 8 >= place.rows.count) break;
      const int t = of_thread(i);
      const float partial = __fmul_rn(acc[i], weights[t]);
      const bool finite = fabsf(partial) < __int_as_float(0x7F800000);
      sums[i] += to_fixed(finite ? partial : 0.0F);
      if (!finite && exists[i / 2 % 2]) not_finite[t / 4] += 1U << (t % 4 * 8);
    }
  }
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const float (&)[Tokens / 2], uint32_t staging, int group) {
    auto* out = reinterpret_cast<long long*>(args.out);
    if constexpr (Staged) add_staged(args, place, out + place.row_tile * 64, staging, group);
#pragma unroll
    for (int t = 0; t < kThreadTokens; ++t) {
      if (token(t, place.lane) >= place.rows.count) continue;
      const int row = place.rows.first + token(t, place.lane);
      const uint32_t count = not_finite[t / 4] >> (t % 4 * 8) & 0xFFU;
      if (Staged && count == 0) continue;
      const int64_t to_row = kKeepsRows ? out_rows[kKeepsRows ? t : 0] : out_row(args, row);
      long long* to = out + to_row * args.out_stride;
      const int i = t / 2 * 4 + t % 2;
      if (!Staged && place.row < args.n) add(to + place.row, sums[i]);
      if (!Staged && place.row + 8 < args.n) add(to + place.row + 8, sums[i + 2]);
      if (count != 0) add(to + args.n, count);
    }
  }
  static __device__ __forceinline__ void end() {
    if constexpr (Staged) bulk_wait();
  }

 private:
  // out: the tile's first sum of row 0.
  __device__ __forceinline__ void add_staged(const ProductArgs& args, const Place& place, long long* out,
                                             uint32_t staging, int group) {
    const int warp = threadIdx.x / 32 % 4, columns = args.n - place.row_tile * 64;
    uint32_t odd[2];  // whether a token's sums begin in the middle of 16 bytes, a bit each
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto* to = out + out_rows[i] * args.out_stride;
      odd[i] = __ballot_sync(0xFFFFFFFFU, reinterpret_cast<uintptr_t>(to) % 16 != 0);
    }
    bulk_wait_read();
    named_barrier(1 + group, 128);  // the item before has left
#pragma unroll
    for (int t = 0; t < kThreadTokens; ++t) {
      const int in_tile = token(t, place.lane), i = t / 2 * 4 + t % 2;
      if (t / 2 * 8 >= place.rows.count) break;
      const uint32_t to = staging + in_tile * kStagedRow + (odd[t / 8] >> (in_tile % 32) & 1U) * 8 +
                          (warp * 16 + place.lane / 4) * 8;
      store_shared(to, sums[i]);
      store_shared(to + 64, sums[i + 2]);
    }
    async_proxy_fence();
    named_barrier(1 + group, 128);
    const int in_tile = warp * 16 + place.lane % 16, in_half = in_tile % 32;
    const uint32_t first = (warp < 2 ? odd[0] : odd[1]) >> in_half & 1U;
    const int row = __shfl_sync(0xFFFFFFFFU, warp < 2 ? out_rows[0] : out_rows[1], in_half);
    if (place.lane >= 16 || in_tile >= place.rows.count || columns <= 0) return;
    const int count = columns < 64 ? columns : 64, pairs = (count - static_cast<int>(first)) / 2;
    long long* to = out + row * args.out_stride;
    const uint32_t from = staging + in_tile * kStagedRow + first * 8;
    if (first != 0) add(to, load_shared(from));
    if (pairs > 0) bulk_add(to + first, from + first * 8, pairs * 16);
    if (static_cast<int>(first) + 2 * pairs < count) add(to + count - 1, load_shared(from + (count - 1) * 8));
    bulk_commit();
  }
  static __device__ __forceinline__ float weight_of(const ProductArgs& args, int row) {
    return args.gate_weights != nullptr ? args.gate_weights[row] : 1;
  }
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
