// attention.h on the CPU.

constexpr int64_t kBlockTokens = 32;          // kKvBlockTokens, in a header this file does not share
constexpr int64_t kChunkColumns = 4;          // ChunkColumn::count
constexpr int64_t kMaxQueryRows = 24;         // rows of a query tile: a multiple of kTileRows
constexpr int64_t kAccumulatorFloats = 8192;  // kMaxHeadDim, or more rows of smaller heads

struct Chunk {
  int64_t first_token, num_tokens, first_position;
  const int32_t* blocks;
};

inline Chunk chunk_at(const cpu::AttentionArgs& args, int64_t c) {
  const int32_t* row = args.chunks + c * kChunkColumns;
  return {row[0], row[1], row[2], args.block_tables + row[3]};
}

inline std::byte* head_in_block(const cpu::AttentionArgs& args, int32_t block, int64_t head) {
  return args.cache + (block * args.num_kv_heads + head) * (args.key_bytes + args.value_bytes);
}

// Where element (dimension d, token t) of a block's keys, or values, lies. A pair is two dimensions of a key,
// or two tokens of a value.
template <typename T>
int64_t key_index(int64_t d, int64_t t, int64_t head_dim) {
  constexpr int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  return ((t / 16) * (head_dim / kPair) + d / kPair) * 16 * kPair + (t % 16) * kPair + d % kPair;
}
template <typename T>
int64_t value_index(int64_t d, int64_t t) {
  constexpr int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  return ((d / 16) * (kBlockTokens / kPair) + t / kPair) * 16 * kPair + (d % 16) * kPair + t % kPair;
}

inline void narrow(float x, float* out) {
  *out = x;
}
inline void narrow(float x, bf16* out) {
  store_bf16(out, splat(x), 1);
}

template <typename T>
void append_token(const cpu::AttentionArgs& args, const Chunk& chunk, int64_t i, int64_t head) {
  const int64_t position = chunk.first_position + i;
  const int64_t slot = position % kBlockTokens;
  std::byte* block = head_in_block(args, chunk.blocks[position / kBlockTokens], head);
  auto* keys = reinterpret_cast<T*>(block);
  auto* values = reinterpret_cast<T*>(block + args.key_bytes);
  if (slot == 0) std::memset(values, 0, static_cast<size_t>(args.value_bytes));
  const int64_t token = chunk.first_token + i;
  const auto* k =
      reinterpret_cast<const T*>(args.q_or_k + token * args.q_or_k_stride_bytes) + head * args.head_dim;
  const float* v = args.v + token * args.v_stride + head * args.head_dim;
  for (int64_t d = 0; d < args.head_dim; ++d) keys[key_index<T>(d, slot, args.head_dim)] = k[d];
  for (int64_t d = 0; d < args.head_dim; ++d) narrow(v[d], &values[value_index<T>(d, slot)]);
}

void append_kv(ThreadPool& pool, const cpu::AttentionArgs& args) {
  pool.parallel(args.num_chunks * args.num_kv_heads, [&](int64_t task) {
    const Chunk chunk = chunk_at(args, task / args.num_kv_heads);
    for (int64_t i = 0; i < chunk.num_tokens; ++i) {
      if (args.is_bf16)
        append_token<bf16>(args, chunk, i, task % args.num_kv_heads);
      else
        append_token<float>(args, chunk, i, task % args.num_kv_heads);
    }
  });
}

// A tile of query rows of one KV head: (token, query head of the group) pairs, tokens first. The state of the
// online softmax of each row, and room for one block's scores and probabilities.
template <typename T>
struct QueryTile {
  int32_t query[kMaxQueryRows];  // where each row of q lies, in 4-byte steps
  int64_t position[kMaxQueryRows];
  float maximum[kMaxQueryRows];
  float sum[kMaxQueryRows];
  float rescale[kMaxQueryRows];
  float total[kMaxQueryRows];  // of one block's probabilities
  alignas(64) float scores[kMaxQueryRows][kBlockTokens];
  alignas(64) T probabilities[kMaxQueryRows][kBlockTokens];
  alignas(64) float accumulated[kAccumulatorFloats];  // [rows, head_dim rounded up to panels]
};

// Turns a block's scores into probabilities relative to the new maximum; positions after the row's own get 0.
// At least one position is visible. Leaves in `rescale` how far the maximum has moved.
template <typename T>
void softmax_block(QueryTile<T>& tile, int64_t row, int64_t visible, float scale) {
  float* s = tile.scores[row];
  for (int64_t t = visible; t < kBlockTokens; ++t) s[t] = -__builtin_inff();
  Vec scaled[kBlockTokens / 16];
  Vec largest = splat(tile.maximum[row]);
  for (int64_t v = 0; v < kBlockTokens / 16; ++v) {
    scaled[v] = mul(load(s + 16 * v), splat(scale));
    largest = max(scaled[v], largest);  // NaN is passed over
  }
  const float maximum = largest_lane(largest);
  Vec total = zero();
  for (int64_t v = 0; v < kBlockTokens / 16; ++v) {
    const Vec p = exp(sub(scaled[v], splat(maximum)));
    total = add(total, p);
    store_activation(tile.probabilities[row] + 16 * v, p, 16);
  }
  tile.rescale[row] = tile.maximum[row] - maximum;
  tile.total[row] = sum_lanes(total);
  tile.maximum[row] = maximum;
}

// What the sums of earlier blocks are multiplied by, sixteen rows at a time.
template <typename T>
void rescale_rows(QueryTile<T>& tile, int64_t first, int64_t end) {
  for (int64_t r = first; r < end; r += 16) {
    const int64_t n = smaller(16, end - r);
    const Vec factor = exp(load_up_to(tile.rescale + r, n));
    store_activation(tile.rescale + r, factor, n);
    store_activation(tile.sum + r,
                     add(mul(load_up_to(tile.sum + r, n), factor), load_up_to(tile.total + r, n)), n);
  }
}

// Rows of earlier tokens may end before this block: `first` is the first row that sees any of it.
template <typename T, typename Step>
void attend_block(const cpu::AttentionArgs& args, QueryTile<T>& tile, int64_t first, int64_t rows,
                  const std::byte* block, const std::byte* next_block, int64_t first_position) {
  const auto key_steps = static_cast<int64_t>(args.head_dim * static_cast<int64_t>(sizeof(T)) / 4);
  const Panels keys{block, key_steps * kStepBytes, key_steps};
  const cpu::Rows q{args.q_or_k, 4, tile.query};
  const auto make_epilogue = [&](int64_t p) {
    return [&tile, p](int64_t m, const auto& acc) {
      constexpr int64_t kPanels = sizeof(acc) / sizeof(acc[0]);
      for (int64_t j = 0; j < kPanels; ++j) store(tile.scores[m] + 16 * (p + j), acc[j]);
    };
  };
  if (next_block != nullptr) {
    const int64_t stride = (args.key_bytes + args.value_bytes) / key_steps;
    const FetchAhead fetch{next_block, stride, (stride + kLineBytes - 1) / kLineBytes, key_steps, next_block};
    panel_loop<Step>(q, first, rows, keys, kBlockTokens / 16, make_epilogue, fetch);
  } else {
    panel_loop<Step>(q, first, rows, keys, kBlockTokens / 16, make_epilogue);
  }
  const float scale = 1.0F / __builtin_sqrtf(static_cast<float>(args.head_dim));
  for (int64_t r = first; r < rows; ++r)
    softmax_block(tile, r, smaller(kBlockTokens, tile.position[r] + 1 - first_position), scale);
  rescale_rows(tile, first, rows);

  const int64_t value_steps = kBlockTokens * static_cast<int64_t>(sizeof(T)) / 4;
  const int64_t value_panels = (args.head_dim + 15) / 16;
  const cpu::Rows p{reinterpret_cast<const std::byte*>(tile.probabilities), sizeof(tile.probabilities[0]),
                    nullptr};
  const Panels values{block + args.key_bytes, value_steps * kStepBytes, value_steps};
  panel_loop<Step>(p, first, rows, values, value_panels, [&](int64_t panel) {
    return [&tile, panel, value_panels](int64_t row, const auto& acc) {
      float* out = tile.accumulated + (row * value_panels + panel) * 16;
      const Vec rescale = splat(tile.rescale[row]);
      constexpr int64_t kPanels = sizeof(acc) / sizeof(acc[0]);
      for (int64_t j = 0; j < kPanels; ++j)
        store(out + 16 * j, add(mul(load(out + 16 * j), rescale), acc[j]));
    };
  });
}

template <typename T, typename Step>
void attend_tile(const cpu::AttentionArgs& args, const Chunk& chunk, int64_t head, int64_t first_row,
                 int64_t rows) {
  const int64_t group = args.num_heads / args.num_kv_heads;
  const int64_t width = (args.head_dim + 15) / 16 * 16;
  QueryTile<T> tile;  // not zeroed: only the rows in use are set
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = (first_row + r) / group;
    const int64_t query_head = head * group + (first_row + r) % group;
    tile.query[r] = static_cast<int32_t>(((chunk.first_token + token) * args.q_or_k_stride_bytes +
                                          query_head * args.head_dim * static_cast<int64_t>(sizeof(T))) /
                                         4);
    tile.position[r] = chunk.first_position + token;
    tile.maximum[r] = -__builtin_inff();
    tile.sum[r] = 0;
  }
  std::memset(tile.accumulated, 0, static_cast<size_t>(rows * width) * sizeof(float));
  const int64_t last_position = tile.position[rows - 1];
  int64_t first = 0;
  for (int64_t b = 0; b * kBlockTokens <= last_position; ++b) {
    while (tile.position[first] < b * kBlockTokens) ++first;
    // A decoding sequence reads its cache once, from memory; the tiles of a prompt find it in a cache.
    const bool fetches = chunk.num_tokens <= 2 && (b + 1) * kBlockTokens <= last_position;
    attend_block<T, Step>(args, tile, first, rows, head_in_block(args, chunk.blocks[b], head),
                          fetches ? head_in_block(args, chunk.blocks[b + 1], head) : nullptr,
                          b * kBlockTokens);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = chunk.first_token + (first_row + r) / group;
    const int64_t query_head = head * group + (first_row + r) % group;
    T* out = static_cast<T*>(args.out) + token * args.out_stride + query_head * args.head_dim;
    for (int64_t d = 0; d < args.head_dim; d += 16)
      store_activation(out + d, div(load(tile.accumulated + r * width + d), splat(tile.sum[r])),
                       smaller(16, args.head_dim - d));
  }
}

void attention(ThreadPool& pool, const cpu::AttentionArgs& args) {
  const int64_t group = args.num_heads / args.num_kv_heads;
  const int64_t width = (args.head_dim + 15) / 16 * 16;
  const int64_t tile_rows = larger(1, smaller(kMaxQueryRows, kAccumulatorFloats / width));
  const int64_t pairs = args.num_chunks * args.num_kv_heads;
  // Tiles of one (chunk, head) are dealt round-robin to a few tasks, so that late tiles, which see more
  // of the cache, are spread evenly.
  const int64_t most_tiles = (args.longest_chunk * group + tile_rows - 1) / tile_rows;
  const int64_t splits = larger(1, smaller(most_tiles, 8 * pool.size() / pairs));
  pool.parallel(pairs * splits, [&](int64_t task) {
    const Chunk chunk = chunk_at(args, task / splits / args.num_kv_heads);
    const int64_t head = task / splits % args.num_kv_heads;
    const int64_t rows = chunk.num_tokens * group;
    for (int64_t first = task % splits * tile_rows; first < rows; first += splits * tile_rows) {
      const int64_t count = smaller(tile_rows, rows - first);
      if (args.is_bf16)
        attend_tile<bf16, Bf16Step>(args, chunk, head, first, count);
      else
        attend_tile<float, F32Step>(args, chunk, head, first, count);
    }
  });
}
