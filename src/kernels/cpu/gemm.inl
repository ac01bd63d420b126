// gemm.h on the CPU. A task is a block of rows times a block of columns of C. It goes through K block after
// block, and keeps the block of A and the sums so far in memory of its own: read in place, rows that lie
// apart by a power of two would drive each other out of the caches. While the rows pass over a few panels of
// B, their tiles fetch the next panels into the second-level cache, which nothing else would do in time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/tile.inl"
#include "kernels/cpu/vec.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

// The inputs of a block of K: kTilePanels panels of that many (32 KiB) stay in the first-level cache. The
// rounding of a sum depends on it.
constexpr int64_t kGemmK = 128;
// The most rows and columns of a task: what it keeps (480 KiB) and two blocks of B fit into the second-level
// cache. The rows are a multiple of kTileRows.
constexpr int64_t kGemmRows = 192;
constexpr int64_t kGemmPanels = 32;
constexpr int64_t kGemmColumns = kGemmPanels * 16;

// What a task keeps; not zeroed.
struct GemmBlocks {
  // A's block, row after row. Where A is stored transposed, tile after tile, the rows of a tile side by side.
  alignas(64) float a[kGemmRows * kGemmK];
  alignas(64) float sums[kGemmRows][kGemmColumns];
};

struct GemmTask {
  const cpu::GemmArgs* args;
  int64_t begin, rows;
  int64_t first_panel, panels;

  const float* a(int64_t first_k) const {
    return args->a_is_transposed ? args->a + first_k * args->a_stride + begin
                                 : args->a + begin * args->a_stride + first_k;
  }
  const std::byte* panel(int64_t first_k, int64_t p) const {
    const int64_t block_k = smaller(kGemmK, args->k - first_k);
    const int64_t all_panels = (args->n + 15) / 16;
    return reinterpret_cast<const std::byte*>(args->packed_b + first_k * all_panels * 16) +
           (first_panel + p) * block_k * kPanelWordBytes;
  }
  bool is_last(int64_t first_k) const { return first_k + kGemmK >= args->k; }
};

// One tile of one block of K, added to the sums of the blocks before it, and these to what is in `out` where
// adds_to_out.
struct GemmTile {
  const float* a;
  Panels panels;
  const float* sums;  // or nullptr
  float* out;
  int64_t out_stride;
  int64_t columns;  // to write, from `out` on; may be more than the tile's
  bool adds_to_out;
  bool fetch_out;
  const std::byte* fetch;  // by the first word
  int64_t fetch_stride;    // from one word to the next
};

template <int NR>
inline __attribute__((always_inline)) void store_tile_row(const GemmTile& t, int64_t m,
                                                          const Vec (&acc)[NR]) {
  float* out = t.out + m * t.out_stride;
  Vec values[NR];
#pragma GCC unroll 4
  for (int j = 0; j < NR; ++j)
    values[j] = t.sums != nullptr ? add(load(t.sums + m * kGemmColumns + 16 * j), acc[j]) : acc[j];
  if (t.columns >= 16 * NR && !t.adds_to_out) {
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) store(out + 16 * j, values[j]);
    return;
  }
  for (int j = 0; j < NR; ++j) {
    const int64_t n = smaller(16, t.columns - 16 * j);
    store_activation(out + 16 * j, t.adds_to_out ? add(load_up_to(out + 16 * j, n), values[j]) : values[j],
                     n);
  }
}

// Not inlined: together with the loops around it, g++ keeps accumulators in memory.
template <int MR, int NR, bool transposed>
__attribute__((noinline)) void gemm_tile(const GemmTile& t) {
  if (t.fetch_out) {  // C is far away: asked for now, its lines are here when the sums are
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) __builtin_prefetch(t.out + i * t.out_stride + 16 * j, 1);
  }
  const auto rows = [&] {
    const auto* a = reinterpret_cast<const std::byte*>(t.a);
    if constexpr (transposed)
      return SideBySideRows{a, 4 * kTileRows};
    else
      return cpu::Rows{a, t.panels.words * 4, nullptr};
  }();
  tile<F32Product, MR, NR>(
      rows, 0, t.panels,
      [&t](int64_t m, const Vec(&acc)[NR]) __attribute__((always_inline)) { store_tile_row<NR>(t, m, acc); },
      [fetch = t.fetch, stride = t.fetch_stride](int64_t s) {
        __builtin_prefetch(fetch + s * stride, 0, 2);
      });
}

// All rows times NR panels from `p` on.
template <int NR, bool transposed>
void gemm_panels(const GemmTask& task, GemmBlocks& blocks, int64_t first_k, int64_t p) {
  const cpu::GemmArgs& args = *task.args;
  const int64_t block_k = smaller(kGemmK, args.k - first_k);
  const int64_t column = (task.first_panel + p) * 16;
  const bool last = task.is_last(first_k);
  GemmTile t{};
  t.panels = {task.panel(first_k, p), block_k * kPanelWordBytes, block_k};
  t.columns = last ? args.n - column : NR * 16;
  t.out_stride = last ? args.c_stride : kGemmColumns;
  t.adds_to_out = last && args.accumulate;
  t.fetch_out = last;

  const bool more_panels = p + NR < task.panels;
  const std::byte* next = t.panels.data;
  int64_t row_bytes = 0;  // of what the tiles fetch, per row
  if (more_panels || !last) {
    next = more_panels ? task.panel(first_k, p + NR) : task.panel(first_k + kGemmK, 0);
    row_bytes = NR * block_k * kPanelWordBytes / task.rows;
  }
  t.fetch_stride = row_bytes * kTileRows / block_k;

  const auto place = [&](int64_t m) {
    t.a = blocks.a + (transposed ? m / kTileRows * kTileRows * block_k + m % kTileRows : m * block_k);
    float* sums = &blocks.sums[m][16 * p];
    t.sums = first_k > 0 ? sums : nullptr;
    t.out = last ? args.c + (task.begin + m) * args.c_stride + column : sums;
    t.fetch = next + m * row_bytes;
  };
  int64_t m = 0;
  for (; m + kTileRows <= task.rows; m += kTileRows) {
    place(m);
    gemm_tile<kTileRows, NR, transposed>(t);
  }
  for (; m < task.rows; ++m) {
    place(m);
    gemm_tile<1, NR, transposed>(t);
  }
}

// Copies the block of A that begins at first_k.
template <bool transposed>
void copy_block(const GemmTask& task, int64_t first_k, float* to) {
  const int64_t left_k = task.args->k - first_k;
  const int64_t block_k = smaller(kGemmK, left_k);
  const int64_t stride = task.args->a_stride;
  const float* a = task.a(first_k);
  if constexpr (!transposed) {
    for (int64_t m = 0; m < task.rows; ++m)
      std::memcpy(to + m * block_k, a + m * stride, static_cast<size_t>(block_k) * sizeof(float));
    return;
  }
  constexpr int64_t kAhead =
      8;  // rows of A that are fetched before their copy: they lie too far apart to guess
  for (int64_t s = 0; s < block_k; ++s) {
    const float* from = a + s * stride;
    if (s + kAhead < left_k)
      for (int64_t m = 0; m < task.rows; m += 16) __builtin_prefetch(from + kAhead * stride + m, 0, 2);
    float* tile = to + s * kTileRows;
    for (int64_t m = 0; m < task.rows; m += kTileRows, tile += block_k * kTileRows) {
      const int64_t left = task.rows - m;
      if (left >= 16)
        store_first(tile, load(from + m), kTileRows);
      else
        store_first(tile, load_up_to(from + m, left), smaller(kTileRows, left));
    }
  }
}

template <bool transposed>
void gemm_task(const GemmTask& task) {
  GemmBlocks blocks;
  for (int64_t first_k = 0; first_k < task.args->k; first_k += kGemmK) {
    copy_block<transposed>(task, first_k, blocks.a);
    int64_t p = 0;
    for (; p + kTilePanels <= task.panels; p += kTilePanels)
      gemm_panels<kTilePanels, transposed>(task, blocks, first_k, p);
    for (; p < task.panels; ++p) gemm_panels<1, transposed>(task, blocks, first_k, p);
  }
}

// Rows of a task: fewer than kGemmRows where that would leave threads without work.
inline int64_t gemm_rows(const cpu::GemmArgs& args, int64_t column_blocks, int64_t threads) {
  const int64_t blocks =
      larger((args.m + kGemmRows - 1) / kGemmRows, (2 * threads + column_blocks - 1) / column_blocks);
  const int64_t rows = (args.m + blocks - 1) / blocks;
  return (rows + kTileRows - 1) / kTileRows * kTileRows;
}

void gemm(ThreadPool& pool, const cpu::GemmArgs& args) {
  const int64_t panels = (args.n + 15) / 16;
  const int64_t column_blocks = (panels + kGemmPanels - 1) / kGemmPanels;
  const int64_t rows = gemm_rows(args, column_blocks, pool.size());
  const int64_t row_blocks = (args.m + rows - 1) / rows;
  pool.parallel(row_blocks * column_blocks, [&](int64_t index) {
    const int64_t begin = index % row_blocks * rows;
    const int64_t first_panel = index / row_blocks * kGemmPanels;
    const GemmTask task{.args = &args,
                        .begin = begin,
                        .rows = smaller(args.m - begin, rows),
                        .first_panel = first_panel,
                        .panels = smaller(kGemmPanels, panels - first_panel)};
    if (args.a_is_transposed)
      gemm_task<true>(task);
    else
      gemm_task<false>(task);
  });
}

// One panel of one block of K.
void pack_panel(const cpu::PackRhsArgs& args, int64_t panel, int64_t first_k, int64_t block_k, float* to) {
  const int64_t column = panel * 16;
  const int64_t n = smaller(16, args.n - column);
  if (!args.is_transposed) {
    const float* from = args.b + first_k * args.b_stride + column;
    for (int64_t s = 0; s < block_k; ++s) store(to + 16 * s, load_up_to(from + s * args.b_stride, n));
    return;
  }
  const float* from = args.b + column * args.b_stride + first_k;
  for (int64_t s = 0; s < block_k; s += 16) {
    const int64_t count = smaller(16, block_k - s);
    Vec values[16];
    for (int64_t i = 0; i < 16; ++i)
      values[i] = i < n ? load_up_to(from + i * args.b_stride + s, count) : zero();
    transpose(values);
    for (int64_t i = 0; i < count; ++i) store(to + 16 * (s + i), values[i]);
  }
}

void pack_rhs(ThreadPool& pool, const cpu::PackRhsArgs& args) {
  const int64_t panels = (args.n + 15) / 16;
  const int64_t column_blocks = (panels + kGemmPanels - 1) / kGemmPanels;
  const int64_t blocks = (args.k + kGemmK - 1) / kGemmK;
  pool.parallel(blocks * column_blocks, [&](int64_t index) {
    const int64_t first_k = index / column_blocks * kGemmK;
    const int64_t block_k = smaller(kGemmK, args.k - first_k);
    const int64_t first = index % column_blocks * kGemmPanels;
    float* block = args.packed + first_k * panels * 16;
    for (int64_t p = first; p < smaller(panels, first + kGemmPanels); ++p)
      pack_panel(args, p, first_k, block_k, block + p * block_k * 16);
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
