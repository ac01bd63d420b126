// gemm.h on the CPU. A task is a block of rows of C times a group of panels of B, for all of K: block after
// block of K, so that a block of B is read from the second-level cache, and four panels of it from the first,
// while the rows pass over them.

// A multiply of panels of this many steps keeps kTilePanels of them (32 KiB) in the first-level cache. What a
// sum is rounded to depends on it.
#ifndef ROWS
#define ROWS 96
#endif
#ifndef STEPS
#define STEPS 128
#endif
#ifndef HOOK
#define HOOK 1
#endif
constexpr int64_t kGemmSteps = STEPS;
constexpr int64_t kGemmPanels = 16;  // of a task: 128 KiB of a block of B
constexpr int64_t kGemmRows = ROWS;   // of a task, at most: a multiple of kTileRows and of 16

// A block of A, tile by tile, the rows of a tile side by side.
struct GemmBlock {
  alignas(64) float values[kGemmRows * kGemmSteps + 16];
};

struct GemmTask {
  int64_t begin, end;          // rows
  int64_t first_panel, count;  // panels
};

// Where a block of K of the packed right operand begins.
inline const float* packed_block(const cpu::GemmArgs& args, int64_t first_step) {
  return args.packed_b + first_step * ((args.n + 15) / 16) * 16;
}


template <int MR, int NR, typename Hook>
__attribute__((noinline)) void gemm_tile(const cpu::GemmArgs& args, const GemmTask& task, const GemmBlock* block, int64_t first_step, int64_t m, int64_t column, const Panels& panels, const Hook& hook) {
  const bool adds = args.accumulate || first_step > 0;
  const auto epilogue = [&](int64_t row, const Vec(&acc)[NR]) __attribute__((always_inline)) {
    float* c = args.c + (task.begin + row) * args.c_stride + column;
    if (column + 16 * NR <= args.n) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < NR; ++j)
        store(c + 16 * j, adds ? add(load(c + 16 * j), acc[j]) : acc[j]);
    } else {
#pragma GCC unroll 4
    for (int64_t j = 0; j < NR; ++j) {
      const int64_t n = smaller(16, args.n - column - 16 * j);
      const Vec value = adds ? add(load_up_to(c + 16 * j, n), acc[j]) : acc[j];
      store_activation(c + 16 * j, value, n);
    }
    }
  };
  if (block != nullptr) {
    const float* a = block->values + m / kTileRows * kTileRows * panels.steps + m % kTileRows;
    const cpu::Rows rows{reinterpret_cast<const std::byte*>(a) - 4 * m, 4, nullptr};
    tile<F32Step, MR, NR, 4 * kTileRows>(rows, m, panels, epilogue, hook);
  } else {
    const float* a = args.a + task.begin * args.a_stride + first_step;
    const cpu::Rows rows{reinterpret_cast<const std::byte*>(a), args.a_stride * 4, nullptr};
    tile<F32Step, MR, NR>(rows, m, panels, epilogue, hook);
  }
}

template <int NR>
void gemm_tiles(const cpu::GemmArgs& args, const GemmTask& task, const GemmBlock* a_block, int64_t first_step,
                int64_t panel) {
  const int64_t steps = smaller(kGemmSteps, args.k - first_step);
  const int64_t panel_bytes = steps * kStepBytes;
  const auto* block = reinterpret_cast<const std::byte*>(packed_block(args, first_step));
  const Panels panels{block + panel * panel_bytes, panel_bytes, steps};
  const int64_t column = panel * 16;
  const bool last = panel + NR >= task.first_panel + task.count;
  const std::byte* next = last ? reinterpret_cast<const std::byte*>(packed_block(args, first_step + kGemmSteps)) +
                                     task.first_panel * panel_bytes
                               : panels.data + NR * panel_bytes;
  const int64_t rows = task.end - task.begin;
  const int64_t row_bytes = NR * 16 * 4 * kGemmSteps / rows;
  const int64_t step_bytes = row_bytes * kTileRows / kGemmSteps;
#if HOOK
  const auto hook = [=](int64_t m, int64_t s) {
      __builtin_prefetch(next + m * row_bytes + s * step_bytes, 0, 2);
  };
#else
  const NoSideStep hook;
#endif
  int64_t m = 0;
  for (; m + kTileRows <= rows; m += kTileRows)
    gemm_tile<kTileRows, NR>(args, task, a_block, first_step, m, column, panels, hook);
  for (; m < rows; ++m)
    gemm_tile<1, NR>(args, task, a_block, first_step, m, column, panels, hook);
}

void gemm_block(const cpu::GemmArgs& args, const GemmTask& task, const GemmBlock* block, int64_t first_step) {
  int64_t p = 0;
  for (; p + kTilePanels <= task.count; p += kTilePanels)
    gemm_tiles<kTilePanels>(args, task, block, first_step, task.first_panel + p);
  for (; p < task.count; ++p)
    gemm_tiles<1>(args, task, block, first_step, task.first_panel + p);
}

void pack_block(const cpu::GemmArgs& args, const GemmTask& task, int64_t first_step, GemmBlock& block) {
  const int64_t steps = smaller(kGemmSteps, args.k - first_step);
  const int64_t rows = task.end - task.begin;
  for (int64_t s = 0; s < steps; ++s) {
    const float* from = args.a + (first_step + s) * args.a_stride + task.begin;
    float* to = block.values + s * kTileRows;
    int64_t m = 0;
    for (; m + 16 <= rows; m += kTileRows, to += steps * kTileRows) store_first(to, load(from + m), kTileRows);
    for (; m < rows; m += kTileRows, to += steps * kTileRows)
      for (int64_t i = 0; i < smaller(kTileRows, rows - m); ++i) to[i] = from[m + i];
  }
}

void gemm_task(const cpu::GemmArgs& args, const GemmTask& task) {
  int64_t first_step = 0;
  do {  // at least once: a product over no K is zero
    if (args.a_is_transposed) {
      GemmBlock block;  // not zeroed: only the rows in use are set
      pack_block(args, task, first_step, block);
      gemm_block(args, task, &block, first_step);
    } else {
      gemm_block(args, task, nullptr, first_step);
    }
    first_step += kGemmSteps;
  } while (first_step < args.k);
}

// Rows of a task: at most kGemmRows, fewer where that would leave threads without work.
inline int64_t gemm_rows(const cpu::GemmArgs& args, int64_t groups, int64_t threads) {
  const int64_t blocks = larger((args.m + kGemmRows - 1) / kGemmRows, (4 * threads + groups - 1) / groups);
  const int64_t rows = (args.m + blocks - 1) / blocks;
  return (rows + kTileRows - 1) / kTileRows * kTileRows;
}

void gemm(ThreadPool& pool, const cpu::GemmArgs& args) {
  const int64_t panels = (args.n + 15) / 16;
  const int64_t groups = (panels + kGemmPanels - 1) / kGemmPanels;
  const int64_t rows = gemm_rows(args, groups, pool.size());
  const int64_t row_blocks = (args.m + rows - 1) / rows;
  pool.parallel(row_blocks * groups, [&](int64_t index) {
    const int64_t begin = index % row_blocks * rows;
    const int64_t first_panel = index / row_blocks * kGemmPanels;
    gemm_task(args, {.begin = begin,
                     .end = smaller(args.m, begin + rows),
                     .first_panel = first_panel,
                     .count = smaller(kGemmPanels, panels - first_panel)});
  });
}

// One panel of one block of K.
void pack_panel(const cpu::PackRhsArgs& args, int64_t panel, int64_t first_step, int64_t steps, float* to) {
  const int64_t column = panel * 16;
  const int64_t n = smaller(16, args.n - column);
  if (!args.is_transposed) {
    const float* from = args.b + first_step * args.b_stride + column;
    for (int64_t s = 0; s < steps; ++s) store(to + 16 * s, load_up_to(from + s * args.b_stride, n));
    return;
  }
  const float* from = args.b + column * args.b_stride + first_step;
  for (int64_t s = 0; s < steps; s += 16) {
    const int64_t count = smaller(16, steps - s);
    Vec values[16];
    for (int64_t i = 0; i < 16; ++i)
      values[i] = i < n ? load_up_to(from + i * args.b_stride + s, count) : zero();
    transpose(values);
    for (int64_t i = 0; i < count; ++i) store(to + 16 * (s + i), values[i]);
  }
}

void pack_rhs(ThreadPool& pool, const cpu::PackRhsArgs& args) {
  const int64_t panels = (args.n + 15) / 16;
  const int64_t groups = (panels + kGemmPanels - 1) / kGemmPanels;
  const int64_t blocks = (args.k + kGemmSteps - 1) / kGemmSteps;
  pool.parallel(blocks * groups, [&](int64_t index) {
    const int64_t first_step = index / groups * kGemmSteps;
    const int64_t steps = smaller(kGemmSteps, args.k - first_step);
    const int64_t first = index % groups * kGemmPanels;
    float* block = args.packed + first_step * panels * 16;
    for (int64_t p = first; p < smaller(panels, first + kGemmPanels); ++p)
      pack_panel(args, p, first_step, steps, block + p * steps * 16);
  });
}
