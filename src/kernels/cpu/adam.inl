// adam.h on the CPU.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/row_walk.inl"
#include "kernels/cpu/vec.h"

namespace chorale::CHORALE_ISA {
namespace {

void adam_step(ThreadPool& pool, const cpu::AdamArgs& args) {
  const Vec beta1 = splat(args.beta1);
  const Vec beta2 = splat(args.beta2);
  for_each_row(pool, args.rows, args.columns, [&](int64_t row) {
    float* parameters = row_of(args.parameters, row);
    const float* gradient = row_of(args.gradient, row);
    float* first = row_of(args.first_moment, row);
    float* second = row_of(args.second_moment, row);
    for (int64_t c = 0; c < args.columns; c += 16) {
      const int64_t n = smaller(16, args.columns - c);
      const Vec g = load_up_to(gradient + c, n);
      const Vec m = fma(beta1, load_up_to(first + c, n), mul(sub(splat(1.0F), beta1), g));
      const Vec v = fma(beta2, load_up_to(second + c, n), mul(sub(splat(1.0F), beta2), mul(g, g)));
      const Vec root = sqrt(mul(v, splat(args.second_scale)));
      const Vec step = div(mul(m, splat(args.step_size)), add(root, splat(args.epsilon)));
      store_activation(first + c, m, n);
      store_activation(second + c, v, n);
      store_activation(parameters + c, sub(load_up_to(parameters + c, n), step), n);
    }
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
