// Int: 16 lanes of 32 bits, the integer products of quantized matrices, and integers that become floats or
// the other way round. Beside vec.h, and in the same namespaces. All of it is exact, so every instruction set
// gives the same integers.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/float16.h"
#include "kernels/cpu/vec.h"

namespace chorale::CHORALE_ISA {

#if defined(__AVX512F__)

struct Int {
  __m512i v;
};
inline Int splat_int(int32_t x) {
  return {_mm512_set1_epi32(x)};
}
inline Int load_int(const void* p) {
  return {_mm512_loadu_si512(p)};
}
inline Vec int_to_float(Int a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
inline Int low_nibbles(Int a) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(0x0F))};
}
inline Int high_nibbles(Int a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(0x0F))};
}
// acc + the four products of the unsigned bytes of a with the signed bytes of b, per lane.
inline Int dot_bytes(Int acc, Int a, Int b) {
#if defined(__AVX512VNNI__)
  // Not the intrinsic: g++ 12 surrounds each with copies of registers, which halves the speed.
  asm("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
#else
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512(a.v, _mm512_set1_epi16(0xFF)),
                                         _mm512_srai_epi16(_mm512_slli_epi16(b.v, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(a.v, 8), _mm512_srai_epi16(b.v, 8));
  return {_mm512_add_epi32(acc.v, _mm512_add_epi32(even, odd))};
#endif
}
// How many of the 32 bf16 in the lanes are NaN.
inline int64_t count_bf16_nan(Vec a) {
  const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi16(0x7FFF));
  return __builtin_popcount(_mm512_cmpgt_epi16_mask(magnitude, _mm512_set1_epi16(0x7F80)));
}
// float16 in the lower and the upper half of each lane.
struct HalfPairs {
  Vec low, high;
};
inline HalfPairs load_half_pairs(const void* p) {
  const __m512i v = _mm512_loadu_si512(p);
  return {{_mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))},
          {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)))}};
}
// Writes the first n lanes, integers within 8 bits; returns the sum of all.
inline int32_t store_int8(int8_t* p, Vec a, int64_t n) {
  const __m512i v = _mm512_cvtps_epi32(a.v);
  const auto mask = static_cast<__mmask16>(n >= 16 ? 0xFFFFU : (1U << n) - 1U);
  _mm512_mask_cvtepi32_storeu_epi8(p, mask, v);
  return _mm512_reduce_add_epi32(v);
}

// Sixteen pairs of int8, all of whose values bf16 has: the lower half of their float32 is zero.
inline BfPairs widen_pairs(const int8_t* p) {
#if defined(__AVX512BF16__)
  const auto* quarters = reinterpret_cast<const __m128i*>(p);
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(quarters)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(quarters + 1)));
  return {reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low))};
#else
  const __m512i pairs = _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i first = _mm512_srai_epi32(_mm512_slli_epi32(pairs, 24), 24);
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(first)), 16);
  const __m512i high = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 8)));
  return {_mm512_or_si512(low, high)};
#endif
}

#elif defined(__AVX2__)

struct Int {
  __m256i lo, hi;
};
inline Int splat_int(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
inline Int load_int(const void* p) {
  const auto* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline Vec int_to_float(Int a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
inline Int low_nibbles(Int a) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline Int high_nibbles(Int a) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  return {_mm256_and_si256(_mm256_srli_epi16(a.lo, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(a.hi, 4), mask)};
}
inline __m256i dot_bytes_half(__m256i acc, __m256i a, __m256i b) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xFF)),
                                         _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
inline Int dot_bytes(Int acc, Int a, Int b) {
  return {dot_bytes_half(acc.lo, a.lo, b.lo), dot_bytes_half(acc.hi, a.hi, b.hi)};
}
inline uint32_t bf16_nan_mask_half(__m256 a) {
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi16(0x7FFF));
  return static_cast<uint32_t>(
      _mm256_movemask_epi8(_mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7F80))));
}
inline int64_t count_bf16_nan(Vec a) {
  return (__builtin_popcount(bf16_nan_mask_half(a.lo)) + __builtin_popcount(bf16_nan_mask_half(a.hi))) / 2;
}
struct HalfPairs {
  Vec low, high;
};
// Sixteen lanes of at most 16 bits as float16.
inline Vec halves_to_float(__m256i lo, __m256i hi) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xD8);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(packed)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1))};
}
inline HalfPairs load_half_pairs(const void* p) {
  const Int a = load_int(p);
  const __m256i mask = _mm256_set1_epi32(0xFFFF);
  return {halves_to_float(_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)),
          halves_to_float(_mm256_srli_epi32(a.lo, 16), _mm256_srli_epi32(a.hi, 16))};
}
inline int32_t store_int8(int8_t* p, Vec a, int64_t n) {
  float lanes[16];
  store(lanes, a);
  int32_t sum = 0;
  for (int64_t i = 0; i < 16; ++i) {
    const auto q = static_cast<int32_t>(lanes[i]);
    sum += q;
    if (i < n) p[i] = static_cast<int8_t>(q);
  }
  return sum;
}

inline __m256i widen_half(const int8_t* p) {
  const __m256i pairs = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i first = _mm256_srai_epi32(_mm256_slli_epi32(pairs, 24), 24);
  const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(first)), 16);
  const __m256i high = _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_srai_epi32(pairs, 8)));
  return _mm256_or_si256(low, high);
}
inline BfPairs widen_pairs(const int8_t* p) {
  return {widen_half(p), widen_half(p + 16)};
}

#else  // portable

struct Int {
  int32_t v[16];
};
inline Int splat_int(int32_t x) {
  Int r;
  for (int32_t& lane : r.v) lane = x;
  return r;
}
inline Int load_int(const void* p) {
  Int r;
  std::memcpy(r.v, p, sizeof(r.v));
  return r;
}
inline Vec int_to_float(Int a) {
  return map([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Int low_nibbles(Int a) {
  for (int32_t& lane : a.v) lane &= 0x0F0F0F0F;
  return a;
}
inline Int high_nibbles(Int a) {
  for (int32_t& lane : a.v) lane = static_cast<int32_t>(static_cast<uint32_t>(lane) >> 4) & 0x0F0F0F0F;
  return a;
}
inline Int dot_bytes(Int acc, Int a, Int b) {
  for (int i = 0; i < 16; ++i) {
    for (int shift = 0; shift < 32; shift += 8) {
      const auto u = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> shift & 0xFFU);
      const auto s = static_cast<int8_t>(static_cast<uint32_t>(b.v[i]) >> shift & 0xFFU);
      acc.v[i] += u * s;
    }
  }
  return acc;
}
inline int64_t count_bf16_nan(Vec a) {
  uint16_t halves[32];
  std::memcpy(halves, a.v, sizeof(halves));
  int64_t count = 0;
  for (const uint16_t half : halves) count += (half & 0x7FFFU) > 0x7F80U ? 1 : 0;
  return count;
}
struct HalfPairs {
  Vec low, high;
};
inline HalfPairs load_half_pairs(const void* p) {
  const Int a = load_int(p);
  const auto half = [&](int i, int shift) {
    return to_float(f16{static_cast<uint16_t>(static_cast<uint32_t>(a.v[i]) >> shift)});
  };
  return {map([&](int i) { return half(i, 0); }), map([&](int i) { return half(i, 16); })};
}
inline int32_t store_int8(int8_t* p, Vec a, int64_t n) {
  int32_t sum = 0;
  for (int64_t i = 0; i < 16; ++i) {
    const auto q = static_cast<int32_t>(a.v[i]);
    sum += q;
    if (i < n) p[i] = static_cast<int8_t>(q);
  }
  return sum;
}
inline BfPairs widen_pairs(const int8_t* p) {
  BfPairs r;
  for (int i = 0; i < 16; ++i)
    r.v[i] = to_bf16(p[2 * i]).bits | static_cast<uint32_t>(to_bf16(p[2 * i + 1]).bits) << 16;
  return r;
}

#endif

// Four signed bytes of a row, in every lane.
inline Int splat_word(const std::byte* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, 4);
  return splat_int(bytes);
}

}  // namespace chorale::CHORALE_ISA
