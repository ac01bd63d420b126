// attention.h on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/tile.inl"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

constexpr int64_t kBlockTokens = kKvBlockTokens;
constexpr int64_t kMaxQueryRows = 24;                // rows of a query tile: a multiple of kTileRows
constexpr int64_t kRowLanes = 32;                    // one lane for each of them
constexpr int64_t kAccumulatorFloats = kMaxHeadDim;  // one row, or more of smaller heads
constexpr int64_t kMaxWidened = kMaxInt8HeadDim * kBlockTokens;  // the keys of a block

// How a cache keeps keys and values, and what they are multiplied with.
template <cpu::KvFormat format>
struct Kv;
template <>
struct Kv<cpu::KvFormat::f32> {
  using Stored = float;
  using Activation = float;
  using Product = F32Product;
};
template <>
struct Kv<cpu::KvFormat::bf16> {
  using Stored = bf16;
  using Activation = bf16;
  using Product = Bf16Product;
};
template <>
struct Kv<cpu::KvFormat::i8> {
  using Stored = int8_t;
  using Activation = bf16;
  using Product = Bf16Product;
};
template <typename AnyKv>
constexpr bool kHasScales = sizeof(typename AnyKv::Stored) == 1;
template <typename AnyKv>  // elements in a word
constexpr int64_t kPair = sizeof(typename AnyKv::Activation) == 2 ? 2 : 1;

// Calls run() with the Kv of a format.
template <typename Run>
void with_kv(cpu::KvFormat format, const Run& run) {
  if (format == cpu::KvFormat::f32) run(Kv<cpu::KvFormat::f32>{});
  if (format == cpu::KvFormat::bf16) run(Kv<cpu::KvFormat::bf16>{});
  if (format == cpu::KvFormat::i8) run(Kv<cpu::KvFormat::i8>{});
}

struct Segment {
  int64_t first_token, num_tokens, first_position;
  const int32_t* blocks;
};

inline Segment segment_at(const cpu::KvArgs& kv, int64_t index) {
  const int32_t* row = kv.segments + index * SegmentColumn::count;
  return {row[SegmentColumn::first_token], row[SegmentColumn::num_tokens], row[SegmentColumn::first_position],
          kv.block_tables + row[SegmentColumn::first_block]};
}

// Fetches a run of memory, some lines at a time: of a decoding sequence, whose cache comes from memory, the
// next block while it computes with this one. Evenly, because a processor has few fetches under way at once,
// and waits when there are more.
struct Fetcher {
  const std::byte* at = nullptr;
  const std::byte* end = nullptr;
  int64_t lines() const { return (end - at) / kLineBytes; }
  void fetch(int64_t most) {
    for (; most > 0 && at < end; --most, at += kLineBytes) __builtin_prefetch(at, 0, 2);
  }
};
struct FetchSome {  // at each word of a tile
  Fetcher* fetcher;
  int64_t lines;
  void operator()(int64_t /*word*/) const { fetcher->fetch(lines); }
};

// What a block keeps of one KV head.
struct HeadBlock {
  std::byte* keys;
  std::byte* values;
  float* key_scales;  // scales: of int8 alone
  float* value_scales;
};

inline HeadBlock head_in_block(const cpu::KvArgs& kv, int32_t block, int64_t head) {
  std::byte* keys = kv.cache + (block * kv.num_kv_heads + head) * kv.head_bytes;
  auto* scales = reinterpret_cast<float*>(keys + kv.key_bytes + kv.value_bytes);
  return {keys, keys + kv.key_bytes, scales, scales + kBlockTokens};
}

// Where element (dimension d, token t) of a block's keys, or values, lies. A pair is two dimensions of a key,
// or two tokens of a value.
template <int64_t pair>
int64_t key_index(int64_t d, int64_t t, int64_t head_dim) {
  return ((t / 16) * (head_dim / pair) + d / pair) * 16 * pair + (t % 16) * pair + d % pair;
}
template <int64_t pair>
int64_t value_index(int64_t d, int64_t t) {
  return ((d / 16) * (kBlockTokens / pair) + t / pair) * 16 * pair + (d % 16) * pair + t % pair;
}

inline void narrow(float x, float* out) {
  *out = x;
}
inline void narrow(float x, bf16* out) {
  store_bf16(out, splat(x), 1);
}

// The largest magnitude of a head; NaN when one of its values is NaN or infinite.
template <typename T>
float largest_magnitude(const T* head, int64_t head_dim) {
  Vec largest = zero();
  uint32_t non_finite = 0;
  for (int64_t d = 0; d < head_dim; d += 16) {
    const Vec x = load_up_to(head + d, head_dim - d);
    non_finite |= non_finite_mask(x);
    largest = max(largest, max(x, sub(zero(), x)));
  }
  return non_finite != 0 ? __builtin_nanf("") : largest_lane(largest);
}

// Calls put(d, value) with each int8 of a head, and returns their scale.
template <typename T, typename Put>
float quantize_head(const T* head, int64_t head_dim, const Put& put) {
  const float largest = largest_magnitude(head, head_dim);
  if (!(largest >= kTinyInt8)) {  // or NaN
    for (int64_t d = 0; d < head_dim; ++d) put(d, int8_t{0});
    return largest < kTinyInt8 ? 0.0F : largest;
  }
  const Vec inverse = splat(127.0F / largest);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t n = smaller(16, head_dim - d);
    float rounded[16];
    store(rounded, round_to_int(mul(load_up_to(head + d, n), inverse)));
    for (int64_t i = 0; i < n; ++i) put(d + i, static_cast<int8_t>(rounded[i]));
  }
  return largest / 127.0F;
}

template <typename AnyKv>
void append_token(const cpu::AppendKvArgs& args, const Segment& segment, int64_t i, int64_t head) {
  using Stored = typename AnyKv::Stored;
  const int64_t position = segment.first_position + i;
  const int64_t in_block = position % kBlockTokens;
  const HeadBlock block = head_in_block(args.kv, segment.blocks[position / kBlockTokens], head);
  auto* keys = reinterpret_cast<Stored*>(block.keys);
  auto* values = reinterpret_cast<Stored*>(block.values);
  // The scales lie behind the values.
  if (in_block == 0) std::memset(values, 0, static_cast<size_t>(args.kv.head_bytes - args.kv.key_bytes));
  const int64_t token = segment.first_token + i;
  const auto* k = reinterpret_cast<const typename AnyKv::Activation*>(args.k + token * args.k_stride_bytes) +
                  head * args.kv.head_dim;
  const float* v = args.v + token * args.v_stride + head * args.kv.head_dim;
  const auto key_at = [&](int64_t d) { return key_index<kPair<AnyKv>>(d, in_block, args.kv.head_dim); };
  const auto value_at = [&](int64_t d) { return value_index<kPair<AnyKv>>(d, in_block); };
  if constexpr (kHasScales<AnyKv>) {
    block.key_scales[in_block] =
        quantize_head(k, args.kv.head_dim, [&](int64_t d, int8_t x) { keys[key_at(d)] = x; });
    block.value_scales[in_block] =
        quantize_head(v, args.kv.head_dim, [&](int64_t d, int8_t x) { values[value_at(d)] = x; });
  } else {
    for (int64_t d = 0; d < args.kv.head_dim; ++d) keys[key_at(d)] = k[d];
    for (int64_t d = 0; d < args.kv.head_dim; ++d) narrow(v[d], &values[value_at(d)]);
  }
}

void append_kv(ThreadPool& pool, const cpu::AppendKvArgs& args) {
  pool.parallel(args.kv.num_segments * args.kv.num_kv_heads, [&](int64_t task) {
    const Segment segment = segment_at(args.kv, task / args.kv.num_kv_heads);
    with_kv(args.kv.format, [&](auto format) {
      for (int64_t i = 0; i < segment.num_tokens; ++i)
        append_token<decltype(format)>(args, segment, i, task % args.kv.num_kv_heads);
    });
  });
}

// A tile of query rows of one KV head: (token, query head that shares it) pairs, tokens first. The state of
// the online softmax of each row, and room for one block's scores and probabilities.
template <typename AnyKv>
struct QueryTile {
  int64_t position[kMaxQueryRows];
  float maximum[kMaxQueryRows];
  float sum[kRowLanes];
  float rescale[kRowLanes];
  float total[kRowLanes];                            // of one block's probabilities
  alignas(64) uint32_t queries[kAccumulatorFloats];  // [words of D, rows]: one address for all rows
  alignas(64) float factors[kBlockTokens];           // of one block's scores
  alignas(64) float scores[kMaxQueryRows][kBlockTokens];
  alignas(64) typename AnyKv::Activation probabilities[kMaxQueryRows][kBlockTokens];
  alignas(64) float accumulated[kAccumulatorFloats];  // [rows, head_dim rounded up to panels]
  alignas(64) bf16 widened[kHasScales<AnyKv> ? kMaxWidened : 1];
};

// Panels of int8, which are widened when their turn comes.
struct Int8Panels {
  const int8_t* data;
  int64_t panel_words;
  int64_t words;  // those that are multiplied, the first ones
  bf16* widened;
  Panels from(int64_t first, int64_t count) const {
    constexpr int64_t kWordElements = 32;
    bf16* out = widened;
    for (int64_t panel = first; panel < first + count; ++panel) {
      const int8_t* in = data + panel * panel_words * kWordElements;
      for (int64_t s = 0; s < words; ++s, out += kWordElements)
        store_pairs(out, widen_pairs(in + s * kWordElements));
    }
    return {reinterpret_cast<const std::byte*>(widened), words * kPanelWordBytes, words};
  }
};

// The first `words` words of panels of `panel_words`.
template <typename AnyKv>
auto panels_of(QueryTile<AnyKv>& tile, const std::byte* data, int64_t panel_words, int64_t words) {
  if constexpr (kHasScales<AnyKv>)
    return Int8Panels{reinterpret_cast<const int8_t*>(data), panel_words, words, tile.widened};
  else
    return Panels{data, panel_words * kPanelWordBytes, words};
}

// What the products with a block's keys are multiplied by to be scores.
template <typename AnyKv>
void set_factors(QueryTile<AnyKv>& tile, const HeadBlock& block, float scale) {
  for (int64_t t = 0; t < kBlockTokens; t += 16) {
    Vec factor = splat(scale);
    if constexpr (kHasScales<AnyKv>) factor = mul(load(block.key_scales + t), factor);
    store(tile.factors + t, factor);
  }
}

// Turns a block's scores into probabilities relative to the new maximum; positions after the row's own get 0,
// whatever lies there. At least one position is visible. Leaves in `rescale` how far the maximum has moved.
template <typename AnyKv>
void softmax_block(QueryTile<AnyKv>& tile, int64_t row, int64_t visible, const HeadBlock& block) {
  float* s = tile.scores[row];
  for (int64_t t = visible; t < kBlockTokens; ++t) s[t] = -__builtin_inff();
  Vec largest = splat(tile.maximum[row]);
  for (int64_t t = 0; t < kBlockTokens; t += 16) largest = max(load(s + t), largest);  // passes NaN over
  const float maximum = largest_lane(largest);
  Vec total = zero();
  for (int64_t t = 0; t < kBlockTokens; t += 16) {
    Vec p = exp(sub(load(s + t), splat(maximum)));
    total = add(total, p);
    if constexpr (kHasScales<AnyKv>) p = mul(p, load_up_to(block.value_scales + t, visible - t));
    store_activation(tile.probabilities[row] + t, p, 16);
  }
  tile.rescale[row] = tile.maximum[row] - maximum;
  tile.total[row] = sum_lanes(total);
  tile.maximum[row] = maximum;
}

// What the sums of earlier blocks are multiplied by, sixteen rows at a time. A row before `first` is done.
template <typename AnyKv>
void rescale_rows(QueryTile<AnyKv>& tile, int64_t first, int64_t end) {
  for (int64_t r = 0; r < first; ++r) tile.rescale[r] = tile.total[r] = 0;
  for (int64_t r = 0; r < end; r += 16) {
    const Vec factor = exp(load(tile.rescale + r));
    store(tile.rescale + r, factor);
    store(tile.sum + r, add(mul(load(tile.sum + r), factor), load(tile.total + r)));
  }
}

// Rows of earlier tokens may end before this block: `first` is the first row that sees any of it, and the
// last row sees the most. What nobody sees is not multiplied.
template <typename AnyKv>
void attend_block(const cpu::AttentionArgs& args, QueryTile<AnyKv>& tile, int64_t first, int64_t rows,
                  const HeadBlock& block, int64_t first_position, Fetcher& fetcher) {
  using Product = typename AnyKv::Product;
  const auto visible_to = [&](int64_t row) {
    return smaller(kBlockTokens, tile.position[row] + 1 - first_position);
  };
  const int64_t visible = visible_to(rows - 1);
  const int64_t lines = fetcher.lines();
  const int64_t key_words = args.kv.head_dim / kPair<AnyKv>;
  const auto keys = panels_of(tile, block.keys, key_words, key_words);
  const SideBySideRows q{reinterpret_cast<const std::byte*>(tile.queries), rows * 4};
  set_factors(tile, block, 1.0F / __builtin_sqrtf(static_cast<float>(args.kv.head_dim)));
  const auto fetch_in = [&](int64_t words, int64_t share) {
    return FetchSome{&fetcher, (share + words - 1) / words};
  };
  const auto scores = [&](int64_t p) {
    return [&tile, p](int64_t m, const auto& acc) {
      constexpr int64_t kPanels = sizeof(acc) / sizeof(acc[0]);
      for (int64_t j = 0; j < kPanels; ++j) {
        const int64_t t = 16 * (p + j);
        store(tile.scores[m] + t, mul(acc[j], load(tile.factors + t)));
      }
    };
  };
  const int64_t key_panels = (visible + 15) / 16;
  if (lines > 0)
    panel_loop<Product>(q, first, rows, keys, key_panels, scores, fetch_in(key_words, lines / 4));
  else
    panel_loop<Product>(q, first, rows, keys, key_panels, scores);

  for (int64_t r = first; r < rows; ++r) {
    softmax_block(tile, r, visible_to(r), block);
    fetcher.fetch(lines / (4 * (rows - first)));
  }
  rescale_rows(tile, first, rows);

  const int64_t value_words = (visible + kPair<AnyKv> - 1) / kPair<AnyKv>;
  const int64_t value_panels = (args.kv.head_dim + 15) / 16;
  const EvenRows<sizeof(tile.probabilities[0])> p{reinterpret_cast<const std::byte*>(tile.probabilities)};
  const auto values = panels_of(tile, block.values, kBlockTokens / kPair<AnyKv>, value_words);
  const auto accumulate = [&](int64_t panel) {
    return [&tile, panel, value_panels](int64_t row, const auto& acc) {
      float* out = tile.accumulated + (row * value_panels + panel) * 16;
      const Vec rescale = splat(tile.rescale[row]);
      constexpr int64_t kPanels = sizeof(acc) / sizeof(acc[0]);
      for (int64_t j = 0; j < kPanels; ++j)
        store(out + 16 * j, add(mul(load(out + 16 * j), rescale), acc[j]));
    };
  };
  if (fetcher.lines() > 0) {
    const int64_t words =
        tiles_of<kTilePanels>(rows - first) * ((value_panels + kTilePanels - 1) / kTilePanels) * value_words;
    panel_loop<Product>(p, first, rows, values, value_panels, accumulate, fetch_in(words, fetcher.lines()));
  } else {
    panel_loop<Product>(p, first, rows, values, value_panels, accumulate);
  }
}

// The part of a KV head's block that has the first `tokens` tokens. A few tokens have values here and there.
inline Fetcher fetcher_of(const cpu::KvArgs& kv, int32_t block, int64_t head, int64_t tokens) {
  const HeadBlock in = head_in_block(kv, block, head);
  if (tokens > kBlockTokens / 2) return {in.keys, in.keys + kv.head_bytes};
  return {in.keys, in.keys + kv.key_bytes / 2};
}

// A sequence that decodes reads its cache once, from memory; the tiles of a prompt find it in a cache.
inline bool is_decoding(const Segment& segment) {
  return segment.num_tokens <= 2;
}

// What to fetch while block `b` of a segment's KV head is computed with: the next one or, after the last, the
// first of the next head or segment, with which a thread will probably go on.
inline Fetcher fetcher_after(const cpu::KvArgs& kv, int64_t pair, int64_t b) {
  Segment segment = segment_at(kv, pair / kv.num_kv_heads);
  if (!is_decoding(segment)) return {};
  if ((b + 1) * kBlockTokens > segment.first_position + segment.num_tokens - 1) {
    b = -1;
    if (++pair == kv.num_segments * kv.num_kv_heads) return {};
    segment = segment_at(kv, pair / kv.num_kv_heads);
  }
  const int64_t left = segment.first_position + segment.num_tokens - (b + 1) * kBlockTokens;
  if (left <= 0) return {};  // an empty segment
  return fetcher_of(kv, segment.blocks[b + 1], pair % kv.num_kv_heads, smaller(left, kBlockTokens));
}

template <typename AnyKv>
void attend_tile(const cpu::AttentionArgs& args, int64_t pair, int64_t first_row, int64_t rows) {
  using T = typename AnyKv::Activation;
  const Segment segment = segment_at(args.kv, pair / args.kv.num_kv_heads);
  const int64_t head = pair % args.kv.num_kv_heads;
  const int64_t heads_per_kv = args.num_heads / args.kv.num_kv_heads;
  const int64_t width = (args.kv.head_dim + 15) / 16 * 16;
  QueryTile<AnyKv> tile;  // not zeroed: only the rows in use are set
  for (int64_t r = 0; r < kRowLanes; ++r) tile.sum[r] = tile.rescale[r] = tile.total[r] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = (first_row + r) / heads_per_kv;
    const int64_t query_head = head * heads_per_kv + (first_row + r) % heads_per_kv;
    const std::byte* query = args.q + (segment.first_token + token) * args.q_stride_bytes +
                             query_head * args.kv.head_dim * static_cast<int64_t>(sizeof(T));
    for (int64_t s = 0; s < args.kv.head_dim / kPair<AnyKv>; ++s)
      std::memcpy(tile.queries + s * rows + r, query + 4 * s, 4);
    tile.position[r] = segment.first_position + token;
    tile.maximum[r] = -__builtin_inff();
  }
  std::memset(tile.accumulated, 0, static_cast<size_t>(rows * width) * sizeof(float));
  const int64_t last_position = tile.position[rows - 1];
  int64_t first = 0;
  for (int64_t b = 0; b * kBlockTokens <= last_position; ++b) {
    while (tile.position[first] < b * kBlockTokens) ++first;
    Fetcher fetcher = fetcher_after(args.kv, pair, b);
    attend_block(args, tile, first, rows, head_in_block(args.kv, segment.blocks[b], head), b * kBlockTokens,
                 fetcher);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = segment.first_token + (first_row + r) / heads_per_kv;
    const int64_t query_head = head * heads_per_kv + (first_row + r) % heads_per_kv;
    T* out = static_cast<T*>(args.out) + token * args.out_stride + query_head * args.kv.head_dim;
    for (int64_t d = 0; d < args.kv.head_dim; d += 16)
      store_activation(out + d, div(load(tile.accumulated + r * width + d), splat(tile.sum[r])),
                       smaller(16, args.kv.head_dim - d));
  }
}

void attention(ThreadPool& pool, const cpu::AttentionArgs& args) {
  const int64_t heads_per_kv = args.num_heads / args.kv.num_kv_heads;
  const int64_t width = (args.kv.head_dim + 15) / 16 * 16;
  const int64_t tile_rows = larger(1, smaller(kMaxQueryRows, kAccumulatorFloats / width));
  const int64_t pairs = args.kv.num_segments * args.kv.num_kv_heads;
  // Tiles of one (segment, head) are dealt round-robin to a few tasks, so that late tiles, which see more
  // of the cache, are spread evenly.
  const int64_t most_tiles = (args.longest_segment * heads_per_kv + tile_rows - 1) / tile_rows;
  const int64_t splits = larger(1, smaller(most_tiles, 8 * pool.size() / pairs));
  pool.parallel(pairs * splits, [&](int64_t task) {
    const int64_t pair = task / splits;
    const int64_t rows = segment_at(args.kv, pair / args.kv.num_kv_heads).num_tokens * heads_per_kv;
    with_kv(args.kv.format, [&](auto format) {
      for (int64_t first = task % splits * tile_rows; first < rows; first += splits * tile_rows)
        attend_tile<decltype(format)>(args, pair, first, smaller(tile_rows, rows - first));
    });
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
