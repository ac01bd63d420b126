// rms_norm_backward.h on the CPU. Sums run over 16 lanes in order of the columns and then over the lanes.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/norm.inl"
#include "kernels/cpu/row_walk.inl"
#include "kernels/cpu/vec.h"

namespace chorale::CHORALE_ISA {
namespace {

void rms_norm_backward(ThreadPool& pool, const cpu::NormBackwardArgs& args) {
  for_each_row(pool, args.rows, args.columns, [&](int64_t row) {
    const float* x = row_of(args.x, row);
    const float* d_out = row_of(args.d_out, row);
    float* d_x = row_of(args.d_x, row);
    const float scale = inverse_rms(x, args.columns, args.eps);
    const auto d_normed = [&](int64_t c, int64_t n) {
      return mul(load_up_to(d_out + c, n), load_up_to(args.weight + c, n));
    };
    Vec products = zero();
    for (int64_t c = 0; c < args.columns; c += 16) {
      const int64_t n = smaller(16, args.columns - c);
      products = fma(d_normed(c, n), mul(load_up_to(x + c, n), splat(scale)), products);
    }
    const Vec mean = splat(sum_lanes(products) / static_cast<float>(args.columns));
    for (int64_t c = 0; c < args.columns; c += 16) {
      const int64_t n = smaller(16, args.columns - c);
      const Vec normed = mul(load_up_to(x + c, n), splat(scale));
      store_activation(d_x + c, mul(sub(d_normed(c, n), mul(normed, mean)), splat(scale)), n);
    }
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
