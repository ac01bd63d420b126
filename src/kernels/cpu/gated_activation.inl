// gated_activation.h on the CPU. All of an element's inputs are read before its outputs are written, so that
// the outputs may take their place.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/row_walk.inl"
#include "kernels/cpu/vec.h"

namespace chorale::CHORALE_ISA {
namespace {

void gated_activation(ThreadPool& pool, const cpu::GatedActivationArgs& args) {
  for_each_row(pool, args.rows, args.columns, [&](int64_t row) {
    const float* gate = row_of(args.gate, row);
    const float* up = row_of(args.up, row);
    float* out = row_of(args.out, row);
    for (int64_t c = 0; c < args.columns; c += 16) {
      const int64_t n = smaller(16, args.columns - c);
      store_activation(out + c, mul(silu(load_up_to(gate + c, n)), load_up_to(up + c, n)), n);
    }
  });
}

void gated_activation_backward(ThreadPool& pool, const cpu::GatedActivationBackwardArgs& args) {
  for_each_row(pool, args.rows, args.columns, [&](int64_t row) {
    const float* gate = row_of(args.gate, row);
    const float* up = row_of(args.up, row);
    const float* d_out = row_of(args.d_out, row);
    float* d_gate = row_of(args.d_gate, row);
    float* d_up = row_of(args.d_up, row);
    for (int64_t c = 0; c < args.columns; c += 16) {
      const int64_t n = smaller(16, args.columns - c);
      const Vec g = load_up_to(gate + c, n);
      const Vec u = load_up_to(up + c, n);
      const Vec d = load_up_to(d_out + c, n);
      const Vec s = sigmoid(g);
      const Vec activation = mul(g, s);
      const Vec slope = fma(activation, sub(splat(1.0F), s), s);
      store_activation(d_gate + c, mul(mul(d, u), slope), n);
      store_activation(d_up + c, mul(d, activation), n);
    }
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
