// Vec: 16 float32 lanes, in the widest registers that the compiler flags of the including file allow. Each
// instruction set compiles the kernels in its own namespace (CHORALE_ISA), so nothing is shared by accident
// between code that needs AVX-512 and code that must run without it.
//
// The operations used in matrix products accumulate each lane on its own, in the order they are called in.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/float16.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace chorale::CHORALE_ISA {

#if defined(__AVX512F__)

struct Vec {
  __m512 v;
};
inline Vec zero() {
  return {_mm512_setzero_ps()};
}
inline Vec splat(float x) {
  return {_mm512_set1_ps(x)};
}
inline Vec load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline void store(float* p, Vec a) {
  _mm512_storeu_ps(p, a.v);
}
inline void store_first(float* p, Vec a, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << n) - 1U), a.v);
}
inline Vec add(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Vec sub(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Vec mul(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Vec div(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline Vec sqrt(Vec a) {
  return {_mm512_sqrt_ps(a.v)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// The second operand is returned when either is NaN, as x86 does.
inline Vec max(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline Vec min(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline Vec round_to_int(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^n for integral n in [-126, 127].
inline Vec exp2_int(Vec n) {
  const __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(i, 23))};
}
inline Vec zero_where_less(Vec a, Vec x, Vec bound) {  // x < bound ? 0 : a
  const __mmask16 less = _mm512_cmp_ps_mask(x.v, bound.v, _CMP_LT_OQ);
  return {_mm512_mask_mov_ps(a.v, less, _mm512_setzero_ps())};
}
// Lanes with a value that is NaN or infinite.
inline uint32_t non_finite_mask(Vec a) {
  return _mm512_fpclass_ps_mask(a.v, 0x01 | 0x80 | 0x08 | 0x10);
}

inline void store_bf16(bf16* p, Vec a, int64_t n) {
  const auto mask = static_cast<__mmask16>(n >= 16 ? 0xFFFFU : (1U << n) - 1U);
#if defined(__AVX512BF16__)
  // vcvtneps2bf16 flushes denormals, which to_bf16() keeps: both are far below what a weight can make
  // visible, and one instruction set uses one of them everywhere.
  const __m256i packed = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v));
#else
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  const __m256i packed = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
  _mm256_mask_storeu_epi16(p, mask, packed);
}

// Lane j of row i becomes lane i of row j.
inline void transpose(Vec (&rows)[16]) {
  __m512d t[16];
  for (int i = 0; i < 16; i += 4) {  // 4x4 blocks within the 128-bit quarters
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i].v, rows[i + 1].v));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i].v, rows[i + 1].v));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i + 2].v, rows[i + 3].v));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i + 2].v, rows[i + 3].v));
    t[i] = _mm512_unpacklo_pd(a, c);
    t[i + 1] = _mm512_unpackhi_pd(a, c);
    t[i + 2] = _mm512_unpacklo_pd(b, d);
    t[i + 3] = _mm512_unpackhi_pd(b, d);
  }
  for (int i = 0; i < 4; ++i) {  // then the 4x4 quarters
    const __m512d a = _mm512_shuffle_f64x2(t[i], t[4 + i], 0x88);
    const __m512d b = _mm512_shuffle_f64x2(t[8 + i], t[12 + i], 0x88);
    const __m512d c = _mm512_shuffle_f64x2(t[i], t[4 + i], 0xDD);
    const __m512d d = _mm512_shuffle_f64x2(t[8 + i], t[12 + i], 0xDD);
    rows[i].v = _mm512_castpd_ps(_mm512_shuffle_f64x2(a, b, 0x88));
    rows[4 + i].v = _mm512_castpd_ps(_mm512_shuffle_f64x2(c, d, 0x88));
    rows[8 + i].v = _mm512_castpd_ps(_mm512_shuffle_f64x2(a, b, 0xDD));
    rows[12 + i].v = _mm512_castpd_ps(_mm512_shuffle_f64x2(c, d, 0xDD));
  }
}

// Sixteen pairs of bf16, one pair per lane.
struct BfPairs {
  __m512i v;
};
inline BfPairs load_pairs(const void* p) {
  return {_mm512_loadu_si512(p)};
}
inline void store_pairs(void* p, BfPairs a) {
  _mm512_storeu_si512(p, a.v);
}
inline BfPairs splat_pair(const bf16* p) {
  int32_t bits;
  std::memcpy(&bits, p, 4);
  return {_mm512_set1_epi32(bits)};
}
// acc + a.first * b.first + a.second * b.second, per lane.
inline Vec dot_pairs(Vec acc, BfPairs a, BfPairs b) {
#if defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
#else
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  const __m512 a0 = _mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16));
  const __m512 b0 = _mm512_castsi512_ps(_mm512_slli_epi32(b.v, 16));
  const __m512 a1 = _mm512_castsi512_ps(_mm512_and_si512(a.v, high));
  const __m512 b1 = _mm512_castsi512_ps(_mm512_and_si512(b.v, high));
  return {_mm512_fmadd_ps(a1, b1, _mm512_fmadd_ps(a0, b0, acc.v))};
#endif
}

// Lanes whose magnitude is not less than `bound`, NaN among them.
inline uint32_t not_within_mask(Vec a, Vec bound) {
  // As integers without their sign, floats have the order of their magnitudes, and NaN comes last.
  const __m512i magnitude = _mm512_slli_epi32(_mm512_castps_si512(a.v), 1);
  return _mm512_cmpge_epu32_mask(magnitude, _mm512_slli_epi32(_mm512_castps_si512(bound.v), 1));
}

// sums[0..16) += a, rounded to integers; every lane is within 2^62.
inline void accumulate_rounded(int64_t* sums, Vec a) {
  const __m512i i0 = _mm512_cvtps_epi64(_mm512_castps512_ps256(a.v));
  const __m512i i1 = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(a.v, 1));
  _mm512_storeu_si512(sums, _mm512_add_epi64(_mm512_loadu_si512(sums), i0));
  _mm512_storeu_si512(sums + 8, _mm512_add_epi64(_mm512_loadu_si512(sums + 8), i1));
}

// sums[0..16) = 0. Written out, because compilers turn a loop over many of these into a slow string store.
inline void clear_fixed(int64_t* sums) {
  _mm512_storeu_si512(sums, _mm512_setzero_si512());
  _mm512_storeu_si512(sums + 8, _mm512_setzero_si512());
}

#elif defined(__AVX2__)

struct Vec {
  __m256 lo, hi;
};
inline Vec zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline Vec splat(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Vec load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void store_first(float* p, Vec a, int64_t n) {
  float lanes[16];
  store(lanes, a);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
inline Vec add(Vec a, Vec b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline Vec sub(Vec a, Vec b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline Vec mul(Vec a, Vec b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline Vec div(Vec a, Vec b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
inline Vec sqrt(Vec a) {
  return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
inline Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
inline Vec round_to_int(Vec a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
inline __m256 exp2_int_half(__m256 n) {
  const __m256i i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23));
}
inline Vec exp2_int(Vec n) {
  return {exp2_int_half(n.lo), exp2_int_half(n.hi)};
}
inline Vec zero_where_less(Vec a, Vec x, Vec bound) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(x.lo, bound.lo, _CMP_LT_OQ), a.lo),
          _mm256_andnot_ps(_mm256_cmp_ps(x.hi, bound.hi, _CMP_LT_OQ), a.hi)};
}
inline uint32_t non_finite_half(__m256 a) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a);
  const __m256 limit = _mm256_set1_ps(3.402823466e+38F);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(magnitude, limit, _CMP_NLE_UQ)));
}
inline uint32_t non_finite_mask(Vec a) {
  return non_finite_half(a.lo) | (non_finite_half(a.hi) << 8);
}

inline __m256i bf16_bits_half(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}
inline void store_bf16(bf16* p, Vec a, int64_t n) {
  // packus works within 128-bit halves; the permutation restores the order.
  const __m256i packed =
      _mm256_permute4x64_epi64(_mm256_packus_epi32(bf16_bits_half(a.lo), bf16_bits_half(a.hi)), 0xD8);
  if (n >= 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
    return;
  }
  uint16_t lanes[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), packed);
  std::memcpy(p, lanes, static_cast<size_t>(n) * 2);
}

struct BfPairs {
  __m256i lo, hi;
};
inline BfPairs load_pairs(const void* p) {
  const auto* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline void store_pairs(void* p, BfPairs a) {
  auto* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, a.lo);
  _mm256_storeu_si256(q + 1, a.hi);
}
inline BfPairs splat_pair(const bf16* p) {
  int32_t bits;
  std::memcpy(&bits, p, 4);
  const __m256i v = _mm256_set1_epi32(bits);
  return {v, v};
}
inline __m256 dot_half(__m256 acc, __m256i a, __m256i b) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
  const __m256 a0 = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
  const __m256 b0 = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
  const __m256 a1 = _mm256_castsi256_ps(_mm256_and_si256(a, high));
  const __m256 b1 = _mm256_castsi256_ps(_mm256_and_si256(b, high));
  return _mm256_fmadd_ps(a1, b1, _mm256_fmadd_ps(a0, b0, acc));
}
inline Vec dot_pairs(Vec acc, BfPairs a, BfPairs b) {
  return {dot_half(acc.lo, a.lo, b.lo), dot_half(acc.hi, a.hi, b.hi)};
}

inline uint32_t not_within_half(__m256 a, __m256 bound) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(magnitude, bound, _CMP_NLT_UQ)));
}
inline uint32_t not_within_mask(Vec a, Vec bound) {
  return not_within_half(a.lo, bound.lo) | (not_within_half(a.hi, bound.hi) << 8);
}

inline void accumulate_rounded(int64_t* sums, Vec a) {
  float lanes[16];
  store(lanes, a);
  for (int i = 0; i < 16; ++i)  // cvtsd2si rounds to nearest even
    sums[i] += _mm_cvtsd_si64(_mm_set_sd(static_cast<double>(lanes[i])));
}

#else  // portable

struct Vec {
  float v[16];
};
template <typename F>
inline Vec map(F f) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
inline Vec splat(float x) {
  return map([&](int) { return x; });
}
inline Vec zero() {
  return splat(0.0F);
}
inline Vec load(const float* p) {
  return map([&](int i) { return p[i]; });
}
inline void store_first(float* p, Vec a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
inline void store(float* p, Vec a) {
  store_first(p, a, 16);
}
inline Vec add(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec sub(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec mul(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec div(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec sqrt(Vec a) {
  return map([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Vec max(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec round_to_int(Vec a) {
  return map([&](int i) { return __builtin_nearbyintf(a.v[i]); });
}
inline Vec exp2_int(Vec n) {
  return map([&](int i) {
    // A NaN exponent stays away from the float-to-int conversion; the caller's factor carries the NaN.
    const float e = n.v[i] >= -126.0F ? n.v[i] : -126.0F;
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(e) + 127) << 23;
    float r;
    std::memcpy(&r, &bits, 4);
    return r;
  });
}
inline Vec zero_where_less(Vec a, Vec x, Vec bound) {
  return map([&](int i) { return x.v[i] < bound.v[i] ? 0.0F : a.v[i]; });
}
inline uint32_t non_finite_mask(Vec a) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 16; ++i) mask |= (__builtin_isfinite(a.v[i]) ? 0U : 1U) << i;
  return mask;
}
inline void store_bf16(bf16* p, Vec a, int64_t n) {
  for (int64_t i = 0; i < (n < 16 ? n : 16); ++i) p[i] = to_bf16(a.v[i]);
}
struct BfPairs {
  uint32_t v[16];
};
inline BfPairs load_pairs(const void* p) {
  BfPairs r;
  std::memcpy(r.v, p, sizeof(r.v));
  return r;
}
inline void store_pairs(void* p, BfPairs a) {
  std::memcpy(p, a.v, sizeof(a.v));
}
inline BfPairs splat_pair(const bf16* p) {
  uint32_t bits;
  std::memcpy(&bits, p, 4);
  BfPairs r;
  for (uint32_t& x : r.v) x = bits;
  return r;
}
inline float low_half(uint32_t pair) {
  return to_float(bf16{static_cast<uint16_t>(pair)});
}
inline float high_half(uint32_t pair) {
  return to_float(bf16{static_cast<uint16_t>(pair >> 16)});
}
inline Vec dot_pairs(Vec acc, BfPairs a, BfPairs b) {
  return map([&](int i) {
    const float first = acc.v[i] + low_half(a.v[i]) * low_half(b.v[i]);
    return first + high_half(a.v[i]) * high_half(b.v[i]);
  });
}
inline uint32_t not_within_mask(Vec a, Vec bound) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 16; ++i) mask |= (__builtin_fabsf(a.v[i]) < bound.v[i] ? 0U : 1U) << i;
  return mask;
}
inline void accumulate_rounded(int64_t* sums, Vec a) {
  for (int i = 0; i < 16; ++i)
    sums[i] += static_cast<int64_t>(__builtin_nearbyint(static_cast<double>(a.v[i])));
}

#endif

// The following are the same text for every instruction set.

// Sixteen bf16, whose bits are the upper half of float32.
inline Vec load(const bf16* p) {
#if defined(__AVX512F__)
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
#else
  uint32_t bits[16];
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<uint32_t>(p[i].bits) << 16;
  float lanes[16];
  std::memcpy(lanes, bits, sizeof(lanes));
  return load(lanes);
#endif
}

// The first n values, at most 16, and `fill` in the other lanes.
inline Vec load_up_to(const float* p, int64_t n, float fill = 0.0F) {
  if (n >= 16) return load(p);
  float lanes[16];
  store(lanes, splat(fill));
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

inline Vec load_up_to(const bf16* p, int64_t n) {
  if (n >= 16) return load(p);
  bf16 lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

// e^x with a relative error below 2e-7; 0 below -87.3 and infinity-free above 88 (clamped). NaN stays NaN.
// Range reduction by ln 2 in two parts and a degree-6 polynomial, after Cephes' expf.
inline Vec exp(Vec x) {
  const Vec lowest = splat(-87.33654F);
  const Vec t = max(lowest, min(splat(88.02F), x));  // NaN is the second operand and passes through both
  const Vec n = round_to_int(mul(t, splat(1.44269504F)));
  const Vec r = fma(n, splat(2.12194440e-4F), fma(n, splat(-0.693359375F), t));
  Vec p = splat(1.9875691500e-4F);
  p = fma(p, r, splat(1.3981999507e-3F));
  p = fma(p, r, splat(8.3334519073e-3F));
  p = fma(p, r, splat(4.1665795894e-2F));
  p = fma(p, r, splat(1.6666665459e-1F));
  p = fma(p, r, splat(5.0000001201e-1F));
  const Vec y = add(fma(mul(r, r), p, r), splat(1.0F));
  return zero_where_less(mul(y, exp2_int(n)), x, lowest);
}

#if !defined(__AVX512F__)
inline void clear_fixed(int64_t* sums) {
  for (int i = 0; i < 16; ++i) sums[i] = 0;
}

inline void transpose(Vec (&rows)[16]) {
  float values[16][16];
  for (int i = 0; i < 16; ++i) store(values[i], rows[i]);
  for (int i = 0; i < 16; ++i) {
    float column[16];
    for (int j = 0; j < 16; ++j) column[j] = values[j][i];
    rows[i] = load(column);
  }
}
#endif

inline Vec sigmoid(Vec x) {
  return div(splat(1.0F), add(splat(1.0F), exp(sub(zero(), x))));
}

inline Vec silu(Vec x) {
  return div(x, add(splat(1.0F), exp(sub(zero(), x))));
}

// The sum of the lanes, always in the same order: halves are added to each other until one lane is left.
inline float sum_lanes(Vec a) {
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
#endif
}

// No lane may be NaN.
inline float largest_lane(Vec a) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(a.v);
#else
  float lanes[16];
  store(lanes, a);
  float largest = lanes[0];
  for (int i = 1; i < 16; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
#endif
}
inline void store_activation(float* p, Vec a, int64_t n) {
  if (n >= 16)
    store(p, a);
  else
    store_first(p, a, n);
}
inline void store_activation(bf16* p, Vec a, int64_t n) {
  store_bf16(p, a, n);
}

}  // namespace chorale::CHORALE_ISA
