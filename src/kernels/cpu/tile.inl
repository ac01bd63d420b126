// The one matmul tile: a few rows times a few panels, accumulators in registers, K in order.
//
// A word is 4 bytes of the row and 64 bytes of each panel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/vec.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

// How far ahead of its use a lone tile fetches its strip, which comes from memory. The processor's own
// prefetching reaches the bandwidth where a word's instructions are few enough for the next words' loads to
// be under way; 2 KiB ahead, one or two rows get more. But a fetch that arrives late, because a word computes
// longer, or one in the next page (4 KiB) costs more than that (docs/performance.md). 0: none.
constexpr int64_t plain_words_ahead(int64_t rows) {
  return rows <= 2 ? 8 : 0;
}

struct Bf16Product {
  static constexpr bool is_quantized = false;
  static constexpr int64_t words_ahead(int64_t rows) { return plain_words_ahead(rows); }
  static Vec multiply_add(Vec acc, const std::byte* weight, const std::byte* x) {
    return dot_pairs(acc, load_pairs(weight), splat_pair(reinterpret_cast<const bf16*>(x)));
  }
};

struct F32Product {
  static constexpr bool is_quantized = false;
  static constexpr int64_t words_ahead(int64_t rows) { return plain_words_ahead(rows); }
  static Vec multiply_add(Vec acc, const std::byte* weight, const std::byte* x) {
    float value;
    std::memcpy(&value, x, sizeof(value));
    return fma(splat(value), load(reinterpret_cast<const float*>(weight)), acc);
  }
};

constexpr int64_t kLineBytes = 64;
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 2;
constexpr int kTilePanels = 2;
#else
constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;
#endif

inline const std::byte* row_at(const cpu::Rows& rows, int64_t m) {
  return rows.data + (rows.index != nullptr ? rows.index[m] : m) * rows.stride_bytes;
}

// The rows of a tile of MR rows: where word s of row i lies. What kind of rows there are decides how
// many registers their addresses take.
template <int MR>
struct TileRows {
  const std::byte* x[MR];
  const std::byte* at(int i, int64_t s) const { return x[i] + s * 4; }
};
template <int MR>
inline TileRows<MR> tile_rows(const cpu::Rows& rows, int64_t m) {
  TileRows<MR> tile;
  for (int i = 0; i < MR; ++i) tile.x[i] = row_at(rows, m + i);
  return tile;
}

// Rows that lie a constant distance apart.
template <int64_t stride_bytes>
struct EvenRows {
  const std::byte* data;
  const std::byte* at(int i, int64_t s) const { return data + i * stride_bytes + s * 4; }
};
template <int MR, int64_t stride_bytes>
inline EvenRows<stride_bytes> tile_rows(const EvenRows<stride_bytes>& rows, int64_t m) {
  return {rows.data + m * stride_bytes};
}

// Rows that lie side by side: each word of all of them, then the next.
struct SideBySideRows {
  const std::byte* data;
  int64_t word_bytes;  // from one word to the next
  const std::byte* at(int i, int64_t s) const { return data + s * word_bytes + i * 4; }
};
template <int MR>
inline SideBySideRows tile_rows(const SideBySideRows& rows, int64_t m) {
  return {rows.data + m * 4, rows.word_bytes};
}

// Panels that are multiplied together and lie apart, as those of a KV block and of gemm.h do.
struct Panels {
  const std::byte* data;
  int64_t stride_bytes;  // from one panel to the next
  int64_t words;
  const std::byte* at(int64_t word, int64_t panel) const {
    return data + word * kPanelWordBytes + panel * stride_bytes;
  }
  Panels from(int64_t first, int64_t /*count*/) const {
    return {data + first * stride_bytes, stride_bytes, words};
  }
};

// Some panels of a strip of a packed matrix, from the one at `data` on.
struct StripPanels {
  const std::byte* data;
  int64_t word_stride;  // bytes
  int64_t words;
  int64_t group_words;  // quantized formats: without the scales
  const std::byte* at(int64_t word, int64_t panel) const {
    return data + word * word_stride + panel * kPanelWordBytes;
  }
};

// What a tile does beside each of its words.
struct NoSideWork {
  void operator()(int64_t /*word*/) const {}
};

// Fetches lines into the second-level cache at each word, so that memory is read while the tile computes.
struct FetchAhead {
  const std::byte* data;  // what the first word fetches
  int64_t stride;         // bytes from what one word fetches to what the next does
  int64_t lines;          // that a word fetches
  int64_t turn;           // the word from which on `then` is fetched in place of `data`
  const std::byte* then;
  const std::byte* at(int64_t word) const { return (word < turn ? data : then) + word * stride; }
  void fetch(const std::byte* from) const {
    for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(from + i * kLineBytes, 0, 2);
  }
  void operator()(int64_t word) const { fetch(at(word)); }
};

template <typename Product, int MR, int NR, typename AnyRows, typename AnyPanels, typename Epilogue,
          typename SideWork = NoSideWork>
inline __attribute__((always_inline)) void tile(const AnyRows& rows, int64_t m, const AnyPanels& panels,
                                                const Epilogue& epilogue, const SideWork& side_work = {}) {
  const auto x = tile_rows<MR>(rows, m);
  Vec acc[MR][NR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j] = zero();
  for (int64_t s = 0; s < panels.words; ++s) {
    side_work(s);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = Product::multiply_add(acc[i][j], panels.at(s, j), x.at(i, s));
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) epilogue(m + i, acc[i]);
}

template <int value_>
struct Count {
  static constexpr int value = value_;
};

// Rows of the largest tile of NR panels: fewer panels leave registers for more rows.
template <int NR>
constexpr int kMaxTileRows = kTileRows > 4 && NR <= 2 ? 2 * kTileRows : kTileRows;

// Whether there is a tile for each number of rows up to the largest. Few rows are then one tile, which reads
// memory faster than two that share a strip.
template <int NR>
constexpr bool kHasEveryTile = (kMaxTileRows<NR> == kTileRows) && (kTileRows > 2);

// Rows of the next tile when `left` are left: as many as there is room for, but two tiles of about four
// rather than one of six and a small one, which would wait for its sums.
template <int NR>
constexpr int64_t next_tile_rows(int64_t left) {
  constexpr int kMaxRows = kMaxTileRows<NR>;
  if (left >= kMaxRows) return kHasEveryTile<NR> && left > kMaxRows && left <= 8 ? 4 : kMaxRows;
  if (kHasEveryTile<NR>) return left;
  if (kMaxRows > 8 && left >= 8) return 8;
  if (kMaxRows > 4 && left >= 4) return 4;
  return kMaxRows >= 2 && left >= 2 ? 2 : 1;
}

template <int NR>
inline int64_t tiles_of(int64_t rows) {
  int64_t tiles = 0;
  for (int64_t left = rows; left > 0; left -= next_tile_rows<NR>(left)) ++tiles;
  return tiles;
}

// Calls tile(Count<rows>) for a number of rows that next_tile_rows gives.
template <int NR, int most = kMaxTileRows<NR>, typename Tile>
inline void with_tile_rows(int64_t rows, const Tile& tile) {
  if (rows == most) return tile(Count<most>{});
  if constexpr (kHasEveryTile<NR> && most > 1)
    with_tile_rows<NR, most - 1>(rows, tile);
  else if constexpr (most > 1)
    with_tile_rows<NR, (most > 8 ? 8 : most / 2)>(rows, tile);
}

// Calls tile(first row, Count<rows>) for all rows [begin, end).
template <int NR, typename Tile>
inline void for_each_tile(int64_t begin, int64_t end, const Tile& tile) {
  for (int64_t m = begin; m < end;) {
    const int64_t rows = next_tile_rows<NR>(end - m);
    with_tile_rows<NR>(rows, [&](auto count) { tile(m, count); });
    m += rows;
  }
}

// All rows [begin, end) times NR panels; the epilogue gets (row, accumulators of the NR panels).
template <typename Product, int NR, typename AnyRows, typename Epilogue, typename SideWork>
inline void row_loop(const AnyRows& rows, int64_t begin, int64_t end, const Panels& panels,
                     const Epilogue& epilogue, const SideWork& side_work) {
  for_each_tile<NR>(begin, end, [&](int64_t m, auto count) {
    tile<Product, count.value, NR>(rows, m, panels, epilogue, side_work);
  });
}

// Calls run(p, Count<NR>) for all of `num_panels` panels, of which `most` are multiplied together.
template <int most, typename Run>
inline void for_each_run(int64_t num_panels, const Run& run) {
  int64_t p = 0;
  for (; p + most <= num_panels; p += most) run(p, Count<most>{});
  if constexpr (most > 2) {
    for (; p + 2 <= num_panels; p += 2) run(p, Count<2>{});
  }
  if constexpr (most > 1) {
    for (; p < num_panels; ++p) run(p, Count<1>{});
  }
}

// Rows times panels. panels.from(p, n) gives n Panels from p on, which are used until the next are asked for;
// make_epilogue(panel) gives the epilogue for tiles that start at that panel.
template <typename Product, typename AnyRows, typename SomePanels, typename MakeEpilogue,
          typename SideWork = NoSideWork>
inline void panel_loop(const AnyRows& rows, int64_t begin, int64_t end, const SomePanels& panels,
                       int64_t num_panels, const MakeEpilogue& make_epilogue,
                       const SideWork& side_work = {}) {
  for_each_run<kTilePanels>(num_panels, [&](int64_t p, auto count) {
    const Panels run = panels.from(p, count.value);
    row_loop<Product, count.value>(rows, begin, end, run, make_epilogue(p), side_work);
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
