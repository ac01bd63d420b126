// matmul.h on the CPU. A task is a strip of one target times a block of rows.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/strip.inl"
#include "kernels/cpu/vec.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

// Rows per task: enough tiles to reuse the panels while they are in the second-level cache.
constexpr int64_t kMatmulRows = 96;

template <typename Product>
void matmul_task(const cpu::MatmulOut& target, const cpu::MatmulArgs& args, int64_t strip_index,
                 int64_t row_block) {
  const cpu::Weight& w = target.weight;
  const int64_t chunk = strip_index / strips_of(w), index = strip_index % strips_of(w);
  Strip strip = strip_of(w, w.data, chunk, index);
  // A thread goes on with the next strip.
  if (args.m <= kMatmulRows) strip.upcoming = strip.data + strip.bytes();
  const int64_t begin = row_block * kMatmulRows;
  const int64_t end = smaller(args.m, begin + kMatmulRows);

  strip_loop<Product>(args.x, begin, end, strip, [&](int64_t p) {
    const int64_t lane = (index * kStripPanels + p) * 16;  // in the chunk
    const int64_t column = chunk * w.n + lane;             // in the output
    return [&target, column, left = w.n - lane](int64_t m, const auto& acc) {
      float* out = target.out + m * target.out_stride + column;
      constexpr int64_t kPanels = sizeof(acc) / sizeof(acc[0]);
#pragma GCC unroll 4
      for (int64_t j = 0; j < kPanels; ++j) {
        const int64_t n = smaller(16, left - 16 * j);
        Vec value = acc[j];
        if (target.bias != nullptr) {
          float bias[16] = {};
          for (int64_t i = 0; i < n; ++i) bias[i] = target.bias[column + 16 * j + i];
          value = add(value, load(bias));
        }
        if (n == 16)
          store(out + 16 * j, value);
        else
          store_first(out + 16 * j, value, n);
      }
    };
  });
}

inline int64_t matmul_strips(const cpu::Weight& w) {
  return w.chunks * strips_of(w);
}

void matmul(ThreadPool& pool, const cpu::MatmulArgs& args) {
  const int64_t row_blocks = (args.m + kMatmulRows - 1) / kMatmulRows;
  int64_t tasks = 0;
  for (int64_t t = 0; t < args.num_targets; ++t) tasks += matmul_strips(args.targets[t].weight) * row_blocks;
  pool.parallel(tasks, [&](int64_t task) {
    int64_t t = 0;
    for (;; ++t) {
      const int64_t of_target = matmul_strips(args.targets[t].weight) * row_blocks;
      if (task < of_target) break;
      task -= of_target;
    }
    const cpu::MatmulOut& target = args.targets[t];
    with_product(args.format, [&](auto product) {
      matmul_task<decltype(product)>(target, args, task / row_blocks, task % row_blocks);
    });
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
