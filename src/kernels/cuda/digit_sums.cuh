// What becomes of sums in two digits (digits.cuh): they are added to those of the rows' tokens, or, where a
// row is a token, are the token's sums.
#pragma once

#include <cstdint>

#include "kernels/cuda/digits.cuh"
#include "kernels/cuda/epilogue.cuh"

namespace chorale::cuda {

__device__ __forceinline__ void add_to_sum(long long* sum, long long value) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(sum), "l"(value) : "memory");
}

// Where element i of a thread's accumulators belongs.
struct SumElement {
  int row, output;
  bool exists;
  __device__ __forceinline__ SumElement(const ProductArgs& args, const Place& place, int i) {
    const int token = token_of(i, place.lane);
    row = place.rows.first + token;
    output = place.row + i / 2 % 2 * 8;
    exists = token < place.rows.count && output < args.n;
  }
};

// values[i], where a register cannot be indexed.
template <typename T, int Size>
__device__ __forceinline__ T chosen(const T (&values)[Size], int i) {
  T value = values[0];
#pragma unroll
  for (int j = 1; j < Size; ++j) value = j == i ? values[j] : value;
  return value;
}

inline constexpr int kPart = 24;  // accumulators

// Calls f(i) for the bits that are set.
template <class F>
__device__ __forceinline__ void for_each_bit(uint64_t bits, F&& f) {
#pragma unroll 1
  for (; bits != 0; bits &= bits - 1) f(__ffsll(static_cast<long long>(bits)) - 1);
}

// The sums of tokens, to which experts' rows are added with their gate weights.
struct AddSums {
  static constexpr bool kWeighted = true;

  template <int N>
  __device__ __forceinline__ void begin_large(const ProductArgs&, const Place&) {}
  // A partial sum that the digits do not hold.
  __device__ __forceinline__ void add_large(const ProductArgs& args, const Place& place, int i,
                                            float partial) const {
    const SumElement element(args, place, i);
    if (!element.exists) return;
    long long* sums = reinterpret_cast<long long*>(args.out) + args.tokens[element.row] * args.out_stride;
    if (fabsf(partial) < __int_as_float(0x7F800000))
      add_to_sum(sums + element.output, to_fixed(partial));
    else
      add_to_sum(sums + args.n, 1);
  }
  // tokens: of the tile's rows, in shared memory.
  template <int N, int Size>
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const Digits<Size>& digits, uint32_t tokens) const {
    int count = place.rows.count;
    asm volatile("" : "+r"(count));  // nothing is computed ahead: there are no registers
    const bool exists[2] = {place.row < args.n, place.row + 8 < args.n};
    auto* out = reinterpret_cast<long long*>(args.out) + place.row;
#pragma unroll
    for (int g = 0; g < N / 8; ++g) {
      const int first = token_of(4 * g, place.lane);
      uint32_t token[2];
      load_shared(token, tokens + first * 4);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (first + c >= count) continue;
        long long* to = out + static_cast<int64_t>(token[c]) * args.out_stride;
        if (exists[0]) add_to_sum(to, digits.value(4 * g + c));
        if (exists[1]) add_to_sum(to + 8, digits.value(4 * g + 2 + c));
      }
    }
  }
};

// The sums themselves, of a product whose rows are tokens: what is there before is of no account, but for the
// counts, which are 0. A thread alone writes to its sums, and so may use them for what digits do not hold.
struct StoreSums {
  static constexpr bool kWeighted = false;
  bool has_large = false;

  static __device__ __forceinline__ long long* sums_of(const ProductArgs& args, int row) {
    return reinterpret_cast<long long*>(args.out) + row * args.out_stride;
  }

  template <int N, class F>
  static __device__ __forceinline__ void for_each_sum(const ProductArgs& args, const Place& place, F&& f) {
    int64_t stride = args.out_stride;
    int count = place.rows.count;
    asm volatile("" : "+l"(stride), "+r"(count));  // nothing is computed ahead: there are no registers
    auto* first = reinterpret_cast<long long*>(args.out) +
                  (place.rows.first + token_of(0, place.lane)) * stride + place.row;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      if (token_of(i, place.lane) >= count || place.row + i / 2 % 2 * 8 >= args.n) continue;
      f(i, first + (i / 4 * 8 + i % 2) * stride + i / 2 % 2 * 8);
    }
  }
  template <int N>
  __device__ __forceinline__ void begin_large(const ProductArgs& args, const Place& place) {
    if (has_large) return;
#pragma unroll 1
    for (int i = 0; i < N / 2; ++i) {
      const SumElement element(args, place, i);
      if (element.exists) sums_of(args, element.row)[element.output] = 0;
    }
    has_large = true;
  }
  __device__ __forceinline__ void add_large(const ProductArgs& args, const Place& place, int i,
                                            float partial) {
    const SumElement element(args, place, i);
    if (!element.exists) return;
    long long* sums = sums_of(args, element.row);
    if (fabsf(partial) < __int_as_float(0x7F800000))
      sums[element.output] += to_fixed(partial);
    else
      add_to_sum(sums + args.n, 1);
  }
  template <int N, int Size>
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const Digits<Size>& digits, uint32_t) const {
    if (has_large)
      for_each_sum<N>(args, place, [&](int i, long long* sum) { *sum += digits.value(i); });
    else
      for_each_sum<N>(args, place, [&](int i, long long* sum) { *sum = digits.value(i); });
  }
};

// Adds the accumulators of a chunk, those from First to Last. weights: of the tile's tokens, in shared
// memory.
template <int First, int Last, int N, int Size, class Output>
__device__ __forceinline__ void add_part(const ProductArgs& args, const Place& place, float (&acc)[Size],
                                         Digits<Size>& digits, Output& output, uint32_t weights) {
  const auto is_large = [&](float magnitude) { return !(magnitude < args.largest_digits); };
  float largest = 0;
#pragma unroll
  for (int g = First / 4; g < Last / 4; ++g) {
    float weight[2];
    if constexpr (Output::kWeighted)
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                   : "=f"(weight[0]), "=f"(weight[1])
                   : "r"(weights + (g * 8 + place.lane % 4 * 2) * 4));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& partial = acc[4 * g + j];
      if constexpr (Output::kWeighted) partial = __fmul_rn(partial, weight[j % 2]);
      largest = larger(largest, partial);
    }
  }
  // Of the whole warp, which must stay together for its next product.
  if (__any_sync(0xFFFFFFFFU, is_large(largest))) {
    if (is_large(largest)) {
      output.template begin_large<N>(args, place);
      uint32_t large = 0;
      float part[Last - First];
#pragma unroll
      for (int i = First; i < Last; ++i) {
        part[i - First] = acc[i];
        if (is_large(fabsf(acc[i]))) large |= 1U << (i - First);
      }
      for_each_bit(large, [&](int i) { output.add_large(args, place, First + i, chosen(part, i)); });
    }
    __syncwarp();
#pragma unroll
    for (int i = First; i < Last; ++i) digits.add(i, is_large(fabsf(acc[i])) ? 0 : acc[i]);
  } else {
#pragma unroll
    for (int i = First; i < Last; ++i) digits.add(i, acc[i]);
  }
}

// All of them, a part at a time: each has few values on their way.
template <int N, int First = 0, int Size, class Output>
__device__ __forceinline__ void add_chunk(const ProductArgs& args, const Place& place, float (&acc)[Size],
                                          Digits<Size>& digits, Output& output, uint32_t weights) {
  constexpr int kLast = First + kPart < N / 2 ? First + kPart : N / 2;
  add_part<First, kLast, N>(args, place, acc, digits, output, weights);
  if constexpr (kLast < N / 2) add_chunk<N, kLast>(args, place, acc, digits, output, weights);
}

// The epilogue of a product whose rows are tokens, one item for each sum.
template <int Tokens>
struct StoreFixed {
  static constexpr bool kStarts = true;
  static constexpr int kStagingBytes = 0;
  Digits<Tokens / 2> digits;
  StoreSums output;

  __device__ __forceinline__ void begin(const ProductArgs& args, const Place&) { digits.begin(args.chunks); }
  static __device__ __forceinline__ void end() {}
  __device__ __forceinline__ void chunk(const ProductArgs& args, const Place& place,
                                        float (&acc)[Tokens / 2]) {
    add_chunk<Tokens>(args, place, acc, digits, output, 0);
  }
  __device__ __forceinline__ void finish(const ProductArgs& args, const Place& place,
                                         const float (&)[Tokens / 2], uint32_t, int) {
    output.template finish<Tokens>(args, place, digits, 0);
  }
};

}  // namespace chorale::cuda
