// The tile of the formats int8 and int4: exact integer products within a group, and one float32 sum over the
// groups, in their order. See quantize.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/tile.inl"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

// What a group of 16 outputs has beside its integers.
struct Int8Scales {
  Vec scale;
};
struct Int4Scales {
  Vec scale, negative_zero;
};

// Elements are q - 128, so the integer sum starts at -128 times the sum of the row's integers.
struct Int8Product {
  static constexpr bool is_quantized = true;
  static constexpr int64_t kRowBytes = 4;  // what a row has for one word of the matrix
  static constexpr int64_t words_ahead(int64_t rows) { return plain_words_ahead(rows); }
  static Int start(int32_t row_sum) { return splat_int(-128 * row_sum); }
  static Int8Scales scales(const std::byte* word) { return {load(reinterpret_cast<const float*>(word))}; }
  static Vec value(Int dot, const Int8Scales& scales, float /*row_sum*/) {
    return mul(int_to_float(dot), scales.scale);
  }
  template <int MR, int NR>
  static inline __attribute__((always_inline)) void multiply_add(Int (&acc)[MR][NR], const std::byte* weight,
                                                                 const std::byte* const (&x)[MR],
                                                                 int64_t at) {
    Int panel[NR];
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) panel[j] = load_int(weight + j * kPanelWordBytes);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = dot_bytes(acc[i][j], panel[j], splat_word(x[i] + at));
  }
};

struct Int4Product {
  static constexpr bool is_quantized = true;
  static constexpr int64_t kRowBytes = 8;
  // More rows compute so long that the loads of later words begin late.
  static constexpr int64_t words_ahead(int64_t rows) { return rows <= 2 ? 0 : 28; }
  static Int start(int32_t /*row_sum*/) { return splat_int(0); }
  static Int4Scales scales(const std::byte* word) {
    const HalfPairs pairs = load_half_pairs(word);
    return {pairs.low, sub(zero(), pairs.high)};
  }
  static Vec value(Int dot, const Int4Scales& scales, float row_sum) {
    return mul(fma(scales.negative_zero, splat(row_sum), int_to_float(dot)), scales.scale);
  }
  template <int MR, int NR>
  static inline __attribute__((always_inline)) void multiply_add(Int (&acc)[MR][NR], const std::byte* weight,
                                                                 const std::byte* const (&x)[MR],
                                                                 int64_t at) {
    Int low[NR], high[NR];
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const Int both = load_int(weight + j * kPanelWordBytes);
      low[j] = low_nibbles(both);
      high[j] = high_nibbles(both);
    }
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = dot_bytes(acc[i][j], low[j], splat_word(x[i] + at));
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = dot_bytes(acc[i][j], high[j], splat_word(x[i] + at + 4));
  }
};

template <typename Product, int MR, int NR, typename Epilogue>
inline __attribute__((always_inline)) void quantized_tile(const cpu::Rows& rows, int64_t m,
                                                          const StripPanels& panels, const Epilogue& epilogue,
                                                          const FetchAhead& ahead) {
  const std::byte* x[MR];
  for (int i = 0; i < MR; ++i) x[i] = row_at(rows, m + i);
  Vec sums[MR][NR];  // in the first-level cache: the registers are for a group's integers
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sums[i][j] = zero();

  const std::byte* weight = panels.data;
  int64_t at = 0;  // bytes, in all rows
  for (int64_t s = 0; s < panels.words; s += 1 + panels.group_words) {
    float scale[MR], row_sum[MR];
    Int acc[MR][NR];
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      int32_t sum;
      std::memcpy(&scale[i], x[i] + at, 4);
      std::memcpy(&sum, x[i] + at + 4, 4);
      row_sum[i] = static_cast<float>(sum);
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = Product::start(sum);
    }
    asm volatile("" : "+m"(sums));  // else the compiler keeps some of them in registers, and not the integers
    const std::byte* const header = weight;
    const std::byte* next = ahead.at(s);  // where it turns, a group may fetch a little beyond
    ahead.fetch(next);
    at += kGroupHeaderBytes;
    weight += panels.word_stride;
    for (int64_t left = panels.group_words; left > 0; --left) {
      ahead.fetch(next += ahead.stride);
      Product::template multiply_add<MR, NR>(acc, weight, x, at);
      at += Product::kRowBytes;
      weight += panels.word_stride;
    }
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const auto scales = Product::scales(header + j * kPanelWordBytes);
#pragma GCC unroll 12
      for (int i = 0; i < MR; ++i)
        sums[i][j] = fma(Product::value(acc[i][j], scales, row_sum[i]), splat(scale[i]), sums[i][j]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) epilogue(m + i, sums[i]);
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
