// rms_norm (rows.h) and norm_rope (rope.h) on the CPU. Sums of squares run over 16 lanes in order of the
// columns and then over the lanes, whatever the number of rows.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/vec.h"

namespace chorale::CHORALE_ISA {
namespace {

inline float inverse_rms(const float* x, int64_t columns, float eps) {
  Vec squares = zero();
  for (int64_t c = 0; c < columns; c += 16) {
    const Vec v = load_up_to(x + c, columns - c);
    squares = fma(v, v, squares);
  }
  return 1.0F / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(columns) + eps);
}

template <typename Out>
void norm_row(const float* x, const float* weight, int64_t columns, float eps, Out* out) {
  const Vec scale = splat(inverse_rms(x, columns, eps));
  for (int64_t c = 0; c < columns; c += 16) {
    const int64_t n = smaller(16, columns - c);
    store_activation(out + c, mul(load_up_to(weight + c, n), mul(load_up_to(x + c, n), scale)), n);
  }
}

void rms_norm(ThreadPool& pool, const cpu::RmsNormArgs& args) {
  const cpu::RowArgs& r = args.rows;
  pool.parallel(r.rows, [&](int64_t row) {
    const float* x = r.x + row * r.x_stride;
    if (r.out_is_bf16)
      norm_row(x, args.weight, r.columns, args.eps, static_cast<bf16*>(r.out) + row * r.out_stride);
    else
      norm_row(x, args.weight, r.columns, args.eps, static_cast<float*>(r.out) + row * r.out_stride);
  });
}

// One head: normalise, then rotate (x[i], x[i + D/2]) by the token's angle i.
template <typename Out>
void norm_rope_head(const float* x, const cpu::NormRopeArgs& args, const float* cos_sin, Out* out) {
  const int64_t half = args.head_dim / 2;
  const Vec scale = splat(inverse_rms(x, args.head_dim, args.eps));
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = smaller(16, half - i);
    const Vec a = mul(load_up_to(args.weight + i, n), mul(load_up_to(x + i, n), scale));
    const Vec b = mul(load_up_to(args.weight + half + i, n), mul(load_up_to(x + half + i, n), scale));
    const Vec cosine = load_up_to(cos_sin + i, n);
    const Vec sine = load_up_to(cos_sin + half + i, n);
    store_activation(out + i, sub(mul(a, cosine), mul(b, sine)), n);
    store_activation(out + half + i, add(mul(b, cosine), mul(a, sine)), n);
  }
}

void norm_rope(ThreadPool& pool, const cpu::NormRopeArgs& args) {
  const cpu::RowArgs& r = args.rows;
  pool.parallel(r.rows, [&](int64_t row) {
    const float* cos_sin = args.cos_sin + row * args.cos_sin_stride;
    for (int64_t column = 0; column < r.columns; column += args.head_dim) {
      const float* x = r.x + row * r.x_stride + column;
      const int64_t at = row * r.out_stride + column;
      if (r.out_is_bf16)
        norm_rope_head(x, args, cos_sin, static_cast<bf16*>(r.out) + at);
      else
        norm_rope_head(x, args, cos_sin, static_cast<float*>(r.out) + at);
    }
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
