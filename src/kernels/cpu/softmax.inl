// softmax.h on the CPU.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/row_walk.inl"
#include "kernels/cpu/vec.h"

namespace chorale::CHORALE_ISA {
namespace {

inline float maximum_of(const float* x, int64_t columns) {
  float maximum = x[0];
  Vec lanes = splat(maximum);
  for (int64_t c = 0; c < columns; c += 16) lanes = max(lanes, load_up_to(x + c, columns - c, maximum));
  float values[16];
  store(values, lanes);
  for (const float value : values) maximum = value > maximum ? value : maximum;
  return maximum;
}

void softmax_rows(ThreadPool& pool, cpu::FloatMatrix logits, int64_t rows, int64_t columns) {
  for_each_row(pool, rows, columns, [&](int64_t row) {
    float* x = row_of(logits, row);
    const Vec maximum = splat(maximum_of(x, columns));
    Vec sums = zero();
    for (int64_t c = 0; c < columns; c += 16) {
      const int64_t n = smaller(16, columns - c);
      const Vec e = exp(sub(load_up_to(x + c, n, -__builtin_inff()), maximum));  // 0 beyond the row
      sums = add(sums, e);
      store_activation(x + c, e, n);
    }
    const Vec scale = splat(1.0F / sum_lanes(sums));
    for (int64_t c = 0; c < columns; c += 16) {
      const int64_t n = smaller(16, columns - c);
      store_activation(x + c, mul(load_up_to(x + c, n), scale), n);
    }
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
