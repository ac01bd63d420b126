// gemm.h on the CPU. A task is a block of rows times a block of columns of C, for all of K. It goes through
// the blocks of K; each block of A is copied beside the sums of C, so that strides which are powers of two do
// not drive each other out of the caches. While a group of panels of B passes through the first-level cache,
// the tiles fetch what comes next into the second.

#ifndef STEPS
#define STEPS 128
#endif
#ifndef ROWS
#define ROWS 192
#endif
#ifndef FB
#define FB 1
#endif
#ifndef FA
#define FA 1
#endif
// Steps of a block of K: kTilePanels panels of that many (32 KiB) stay in the first-level cache. A sum's
// rounding depends on it.
constexpr int64_t kGemmSteps = STEPS;
// Of a task, at most. The rows are a multiple of kTileRows and of 16.
constexpr int64_t kGemmPanels = 16;
constexpr int64_t kGemmRows = ROWS;
constexpr int64_t kGemmColumns = kGemmPanels * 16;

// What a task keeps beside the packed B; not zeroed.
struct GemmBlocks {
  // Of A: row after row, or where A is stored transposed tile after tile, the rows of a tile side by side.
  alignas(64) float a[kGemmRows * kGemmSteps];
  alignas(64) float c[kGemmRows][kGemmColumns];
};

struct GemmTask {
  const cpu::GemmArgs& args;
  int64_t begin, rows;
  int64_t first_panel, panels;
};

template <int value_>
struct Int {
  static constexpr int value = value_;
};

struct GemmTile {
  const float* a;
  Panels panels;
  float* c;
  bool adds;
  // What to fetch in the first step, and the distance to the next step's.
  const std::byte* fetch;
  int64_t fetch_stride;
};

// A function of its own: with the loops around it, g++ runs out of registers. XStep, see tile().
template <int MR, int NR, bool transposed>
__attribute__((noinline)) void gemm_tile(const GemmTile& t) {
  constexpr int64_t kStep = transposed ? 4 * kTileRows : 4;
  const cpu::Rows rows{reinterpret_cast<const std::byte*>(t.a), transposed ? 4 : t.panels.steps * 4, nullptr};
  const auto store_sums = [&](int64_t m, const Vec(&acc)[NR]) __attribute__((always_inline)) {
    float* c = t.c + m * kGemmColumns;
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) store(c + 16 * j, t.adds ? add(load(c + 16 * j), acc[j]) : acc[j]);
  };
  tile<F32Step, MR, NR, kStep>(rows, 0, t.panels, store_sums,
                               [fetch = t.fetch, stride = t.fetch_stride](int64_t, int64_t s) {
                                 __builtin_prefetch(fetch + s * stride, 0, 2);
                               });
}

// Where a block of K of the packed right operand begins.
inline const std::byte* packed_block(const cpu::GemmArgs& args, int64_t first_step) {
  return reinterpret_cast<const std::byte*>(args.packed_b + first_step * ((args.n + 15) / 16) * 16);
}

inline const float* a_block(const GemmTask& task, int64_t first_step) {
  const cpu::GemmArgs& args = task.args;
  return args.a_is_transposed ? args.a + first_step * args.a_stride + task.begin
                              : args.a + task.begin * args.a_stride + first_step;
}

// What tile `index` of a group of panels fetches: a quarter of one of the next panels, or a line of each row
// of A, as it is stored, of the next block of K.
inline void set_fetch(const GemmTask& task, int64_t first_step, int64_t group, int64_t index,
                      const std::byte* next_panels, GemmTile& t) {
  constexpr int64_t kTilesForPanels = 4 * kTilePanels;
  constexpr int64_t kTilesForA = 4;
  const int64_t panel_bytes = kGemmSteps * kStepBytes;
  t.fetch = t.panels.data;
  t.fetch_stride = 0;
  if (FB && index < kTilesForPanels) {
    t.fetch = next_panels + index * panel_bytes / 4;
    t.fetch_stride = kStepBytes / 4;
  } else if (FA && index < kTilesForPanels + kTilesForA) {
    const int64_t line = group * kTilesForA + index - kTilesForPanels;
    const auto* next = reinterpret_cast<const std::byte*>(a_block(task, first_step + kGemmSteps));
    const int64_t stride = task.args.a_stride * 4;
    if (task.args.a_is_transposed) {
      t.fetch = next + line * 64;
    } else {
      t.fetch = next + (line % 8) * 64 + line / 8 * kGemmSteps * stride;
    }
    t.fetch_stride = stride;
  }
}

template <int NR, bool transposed>
void gemm_group(const GemmTask& task, GemmBlocks& blocks, int64_t first_step, int64_t panel) {
  const int64_t steps = smaller(kGemmSteps, task.args.k - first_step);
  const int64_t panel_bytes = steps * kStepBytes;
  GemmTile t{};
  t.panels = {packed_block(task.args, first_step) + (task.first_panel + panel) * panel_bytes, panel_bytes,
              steps};
  t.adds = first_step > 0;
  const std::byte* next = panel + NR < task.panels ? t.panels.data + NR * panel_bytes
                                                   : packed_block(task.args, first_step + kGemmSteps) +
                                                         task.first_panel * panel_bytes;
  int64_t m = 0;
  const auto run = [&](auto tile_rows) {
    constexpr int kRows = decltype(tile_rows)::value;
    t.a = blocks.a + (transposed ? m / kTileRows * kTileRows * steps + m % kTileRows : m * steps);
    t.c = &blocks.c[m][16 * panel];
    set_fetch(task, first_step, panel / kTilePanels, m / kTileRows, next, t);
    gemm_tile<kRows, NR, transposed>(t);
    m += kRows;
  };
  while (m + kTileRows <= task.rows) run(Int<kTileRows>{});
  while (m < task.rows) run(Int<1>{});
}

template <bool transposed>
void gemm_block(const GemmTask& task, GemmBlocks& blocks, int64_t first_step) {
  int64_t p = 0;
  for (; p + kTilePanels <= task.panels; p += kTilePanels)
    gemm_group<kTilePanels, transposed>(task, blocks, first_step, p);
  for (; p < task.panels; ++p) gemm_group<1, transposed>(task, blocks, first_step, p);
}

// Copies the block of A that begins at first_step.
void copy_a(const GemmTask& task, int64_t first_step, float* to) {
  const int64_t steps = smaller(kGemmSteps, task.args.k - first_step);
  const float* a = a_block(task, first_step);
  if (!task.args.a_is_transposed) {
    for (int64_t m = 0; m < task.rows; ++m)
      std::memcpy(to + m * steps, a + m * task.args.a_stride, static_cast<size_t>(steps) * sizeof(float));
    return;
  }
  for (int64_t s = 0; s < steps; ++s) {
    const float* from = a + s * task.args.a_stride;
    float* out = to + s * kTileRows;
    for (int64_t m = 0; m < task.rows; m += kTileRows, out += steps * kTileRows) {
      const int64_t left = task.rows - m;
      if (left >= 16)
        store_first(out, load(from + m), kTileRows);
      else
        for (int64_t i = 0; i < smaller(kTileRows, left); ++i) out[i] = from[m + i];
    }
  }
}

// Writes the finished sums to C.
void write_c(const GemmTask& task, const GemmBlocks& blocks) {
  const int64_t column = task.first_panel * 16;
  const int64_t columns = smaller(task.panels * 16, task.args.n - column);
  for (int64_t m = 0; m < task.rows; ++m) {
    float* c = task.args.c + (task.begin + m) * task.args.c_stride + column;
    for (int64_t i = 0; i < columns; i += 16) {
      const Vec sums = load(&blocks.c[m][i]);
      const int64_t n = smaller(16, columns - i);
      store_activation(c + i, task.args.accumulate ? add(load_up_to(c + i, n), sums) : sums, n);
    }
  }
}

void gemm_task(const GemmTask& task) {
  GemmBlocks blocks;
  int64_t first_step = 0;
  do {  // at least once: a product over no K is zero
    copy_a(task, first_step, blocks.a);
    if (task.args.a_is_transposed)
      gemm_block<true>(task, blocks, first_step);
    else
      gemm_block<false>(task, blocks, first_step);
    first_step += kGemmSteps;
  } while (first_step < task.args.k);
  write_c(task, blocks);
}

// Rows of a task: at most kGemmRows, fewer where that would leave threads without work.
inline int64_t gemm_rows(const cpu::GemmArgs& args, int64_t groups, int64_t threads) {
  const int64_t blocks = larger((args.m + kGemmRows - 1) / kGemmRows, (2 * threads + groups - 1) / groups);
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
    gemm_task({.args = args,
               .begin = begin,
               .rows = smaller(args.m - begin, rows),
               .first_panel = first_panel,
               .panels = smaller(kGemmPanels, panels - first_panel)});
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
