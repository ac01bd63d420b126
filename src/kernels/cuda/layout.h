// Where things lie in a GPU's memory, and how its products are cut into tiles: pure arithmetic, the same for
// the host and for kernels.
//
// A tile is 64 rows of 64 bf16 values, 8 KiB, in the 128-byte swizzle that Hopper's warpgroup products read:
// row r is 128 bytes, and its 16-byte piece p lies at piece p ^ (r % 8). So weights and caches lie in memory
// as they must in shared memory, and a plain bulk copy brings them there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace chorale::cuda {

inline constexpr int64_t kTile = 64;         // rows, and columns, of a tile
inline constexpr int64_t kTileBytes = 8192;  // of bf16
inline constexpr int64_t kPiece = 8;         // bf16 values that stay neighbours, 16 bytes
inline constexpr int64_t kBlockK = 16;       // inputs that the tensor core adds up at once

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// Element of a tile, or of a swizzled matrix of any number of rows of 64 values, that holds [row, column].
constexpr int64_t swizzled(int64_t row, int64_t column) {
  return row * kTile + ((column / kPiece) ^ (row % 8)) * kPiece + column % kPiece;
}

// A weight matrix [N, K]. In bf16: tiles [ceil(rows / 64)][ceil(K / 64)], what is beyond the matrix zero. In
// float32, which plain kernels multiply: the stored rows, K values each, one after the other. A fused pair
// takes 8 rows of gate and 8 of up by turns, so that one thread's accumulators hold both of an output; the
// rows that fill up its last 8 are zero. K is stored in order; the canonical chunks of a product that is
// order-free are ranges of it.
struct TiledLayout {
  int64_t n = 0;  // outputs; of gate alone when fused_pair
  int64_t k = 0;  // inputs
  int64_t k_chunks = 1;
  bool fused_pair = false;
  DType dtype = DType::bf16;  // or f32

  constexpr bool has_tiles() const { return dtype == DType::bf16; }
  constexpr int64_t chunk_k() const { return k / k_chunks; }
  constexpr int64_t rows() const { return fused_pair ? round_up(n, 8) * 2 : n; }  // stored
  constexpr int64_t row_tiles() const { return ceil_div(rows(), kTile); }
  constexpr int64_t k_tiles() const { return ceil_div(k, kTile); }
  constexpr int64_t bytes() const {
    return has_tiles() ? row_tiles() * k_tiles() * kTileBytes
                       : rows() * k * static_cast<int64_t>(sizeof(float));
  }
  // The stored row of an output; `half` 0 is gate, 1 is up, and 0 where there is no pair.
  constexpr int64_t stored_row(int64_t output, int64_t half) const {
    return fused_pair ? output / 8 * 16 + half * 8 + output % 8 : output;
  }
  // Element that holds [stored row, input].
  constexpr int64_t element(int64_t row, int64_t input) const {
    if (!has_tiles()) return row * k + input;
    return (row / kTile * k_tiles() + input / kTile) * (kTile * kTile) + swizzled(row % kTile, input % kTile);
  }
};

// One layer's KV cache: [B][KV][keys, values]. A block holds 64 tokens. In bf16 they are, per KV head, rows
// of ceil(D / 64) tiles of keys, then as many of values; dimensions beyond D are not defined. In float32,
// which plain kernels read, they are rows of D keys, then as many of values.
inline constexpr int64_t kKvTokens = 64;
struct KvTiles {
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::bf16;  // or f32

  constexpr bool has_tiles() const { return dtype == DType::bf16; }
  constexpr int64_t dim_tiles() const { return ceil_div(head_dim, kTile); }
  constexpr int64_t key_bytes() const {
    return has_tiles() ? dim_tiles() * kTileBytes
                       : kKvTokens * head_dim * static_cast<int64_t>(sizeof(float));
  }
  constexpr int64_t head_bytes() const { return 2 * key_bytes(); }
  constexpr int64_t block_bytes() const { return num_kv_heads * head_bytes(); }
  // Byte of a block at which the value of a token (0..63 within the block) and dimension lies.
  constexpr int64_t key_offset(int64_t head, int64_t token, int64_t dim) const {
    if (!has_tiles())
      return head * head_bytes() + (token * head_dim + dim) * static_cast<int64_t>(sizeof(float));
    return head * head_bytes() + dim / kTile * kTileBytes + swizzled(token, dim % kTile) * 2;
  }
  constexpr int64_t value_offset(int64_t head, int64_t token, int64_t dim) const {
    return key_bytes() + key_offset(head, token, dim);
  }
};

// ---- how a product is cut ----

// Which kernel multiplies: the bits are the same.
enum class ProductKernel {
  plain,      // any shape
  few_rows,   // 64 rows of weights by up to 64 tokens: streams the weights
  many_rows,  // 128 rows of weights by up to 160 tokens
};

// How the two consumer warpgroups of many rows share items: an item has one weight tile for each, or as many
// and they take items by turns, which then have one chunk, or two for each (then one chunk, too).
enum class Sharing { one_tile, by_turns, two_tiles };

struct ProductPlan {
  ProductKernel kernel = ProductKernel::plain;
  int64_t tokens = 8;       // of a tile
  int64_t stage_k = 1;      // tiles of K that a stage of the ring holds
  int64_t block_chunk = 0;  // k16 blocks of a chunk where several chunks lie in one stage, else 0
  int64_t k_splits = 1;     // thread blocks that share the chunks of one tile
  Sharing sharing = Sharing::one_tile;
};

// Tokens of a tile: the smallest of 8, 16, 32, 64, 128, 256 that covers `rows`.
constexpr int64_t tile_tokens(int64_t rows) {
  int64_t tokens = 8;
  while (tokens < rows && tokens < 256) tokens *= 2;
  return tokens;
}

// Rows that a tile should cover: all of a dense product; of a grouped one, twice those of an average expert,
// since a tile that is too wide costs little and a second tile reads the weights again.
constexpr int64_t typical_rows(int64_t tokens, int64_t pairs, int64_t experts) {
  if (experts == 1) return pairs;
  if (tokens <= 16) return tokens;  // then each expert has one tile, which saves looking for it
  const int64_t twice = 2 * ceil_div(pairs, experts);
  return twice < tokens ? twice : tokens;
}

// The plan of a product of one or more matrices with `row_tiles` tiles of stored rows together. `rows` as
// typical_rows gives it; `row_sets`: of how many matrices those are to be expected (1 where all rows have
// one); `processors`: multiprocessors.
constexpr ProductPlan plan_product(const TiledLayout& layout, int64_t row_tiles, int64_t rows,
                                   int64_t row_sets, int64_t processors) {
  ProductPlan plan;
  const int64_t chunk = layout.chunk_k();
  const bool has_sums = layout.k_chunks > 1;
  if (!layout.has_tiles()) return plan;
  if (layout.k % kTile != 0 || layout.k_chunks * chunk != layout.k) return plan;
  if (has_sums && chunk % kTile != 0) {
    if (chunk != 96 || layout.k % 192 != 0) return plan;
    plan.stage_k = 3;
    plan.block_chunk = 6;
  } else {
    plan.stage_k = chunk % (2 * kTile) == 0 ? 2 : 1;
  }

  plan.kernel = ProductKernel::few_rows;
  plan.tokens = tile_tokens(rows);
  if (plan.tokens > 64) {
    const int64_t pairs = ceil_div(row_tiles, 2) * row_sets;
    plan.tokens = 64;
    // Sums of 64 bits leave no registers for a wider tile.
    if (has_sums) {
      if (ceil_div(rows, plan.tokens) * pairs >= processors) plan.kernel = ProductKernel::many_rows;
    } else {
      // What a multiprocessor multiplies one after the other, by the share of its rate that each kernel
      // reaches.
      const auto rounds = [&](int64_t tokens, int64_t slots) {
        return ceil_div(ceil_div(rows, tokens) * (slots > processors ? row_tiles * row_sets : pairs), slots);
      };
      const int64_t least = rounds(64, 2 * processors) * 2 * 64 * 64 * 100 / 55;
      const int64_t rounds_128 = rounds(128, processors);
      if (rounds_128 * 128 * 128 * 100 / 80 < least || (row_sets > 1 && rows > 128)) {
        plan.kernel = ProductKernel::many_rows;
        // Experts have rows around half of the typical number, of which a wider tile may hold all; and it
        // reads less for each product.
        plan.tokens = row_sets > 1 && rows > 128 ? 160 : 128;
        if (plan.tokens == 160)
          plan.sharing = Sharing::two_tiles;
        else if (rounds_128 > 8)
          plan.sharing = Sharing::by_turns;
      }
      if (plan.kernel == ProductKernel::many_rows) plan.stage_k = 1;
    }
    if (plan.kernel == ProductKernel::many_rows) return plan;
  }
  if (plan.stage_k == 1) plan.tokens = 64;
  const int64_t tiles = ceil_div(rows, plan.tokens) * row_tiles * row_sets;
  while (has_sums && tiles * plan.k_splits * 2 <= 2 * processors) {
    const int64_t next = plan.k_splits * 2;
    if (layout.k_chunks % next != 0 || layout.k / next % (plan.stage_k * kTile) != 0) break;
    plan.k_splits = next;
  }
  return plan;
}

// Whether the order-free product of `rows` rows keeps them in shared memory while weights pass by
// (resident_product.cuh): chunks of 1.5 tiles of K, at most 12 tiles of K, and rows for more than a tile.
constexpr bool keeps_rows(const TiledLayout& layout, int64_t rows, int64_t experts) {
  return layout.has_tiles() && layout.k_chunks * 96 == layout.k && layout.k % (3 * kTile) == 0 &&
         layout.k <= 12 * kTile && rows >= (experts == 1 ? 4096 : 128 * experts);
}

}  // namespace chorale::cuda
