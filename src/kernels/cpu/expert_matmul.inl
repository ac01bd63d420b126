// expert_matmul.h on the CPU.

struct RowRange {
  int64_t begin, end;
};

inline RowRange rows_of(const cpu::ExpertArgs& args, int64_t expert) {
  if (args.offsets == nullptr) return {0, args.num_rows};
  return {args.offsets[expert], args.offsets[expert + 1]};
}

inline int64_t num_active(const cpu::ExpertArgs& args) {
  return args.active == nullptr ? 1 : args.active[0];
}
inline int64_t active_expert(const cpu::ExpertArgs& args, int64_t i) {
  return args.active == nullptr ? 0 : args.active[1 + i];
}

// Gate and up panels alternate, so a tile holds whole pairs.
constexpr int kGatedPanels = kTilePanels < 2 ? 2 : kTilePanels;

template <typename Step, typename Activation>
void gated_task(const cpu::ExpertArgs& args, int64_t expert, int64_t strip_index, int64_t num_threads) {
  const cpu::Weight& w = args.weight;
  const RowRange range = rows_of(args, expert);
  const int64_t chunk = strip_index / strips_of(w), index = strip_index % strips_of(w);
  Strip strip = strip_of(w, args.experts[expert] + chunk * w.panels * w.k_steps * kStepBytes, index);
  strip.upcoming = strip.data + num_threads * strip.bytes();  // the threads take strips by turns
  const cpu::Rows x{args.x, args.x_stride_bytes, args.tokens};
  strip_loop<Step, kGatedPanels>(x, range.begin, range.end, strip, [&](int64_t p) {
    const int64_t lane = (index * kStripPanels + p) / 2 * 16;
    auto* out = static_cast<Activation*>(args.out) + chunk * w.n + lane;
    return [out, &args, left = w.n - lane](int64_t row, const auto& acc) {
      constexpr int64_t kPairs = sizeof(acc) / sizeof(acc[0]) / 2;
#pragma GCC unroll 2
      for (int64_t j = 0; j < kPairs; ++j) {
        const Vec value = mul(silu(acc[2 * j]), acc[2 * j + 1]);
        store_activation(out + row * args.out_stride + 16 * j, value, smaller(16, left - 16 * j));
      }
    };
  });
}

void gated_matmul(ThreadPool& pool, const cpu::ExpertArgs& args) {
  const int64_t strips = args.weight.chunks * strips_of(args.weight);
  pool.parallel(num_active(args) * strips, [&](int64_t task) {
    const int64_t expert = active_expert(args, task / strips);
    if (args.is_bf16)
      gated_task<Bf16Step, bf16>(args, expert, task % strips, pool.size());
    else
      gated_task<F32Step, float>(args, expert, task % strips, pool.size());
  });
}

// Rounds 16 partial sums to fixed point and adds them to 16 integers; what is not finite among the first n is
// counted in the row's last column.
inline void accumulate_partial(int64_t* sums, int64_t* flags, Vec value, int64_t n) {
  const uint32_t lanes = n >= 16 ? 0xFFFFU : (1U << n) - 1U;
  const uint32_t bad = non_finite_mask(value);
  if (bad != 0) [[unlikely]] {
    if ((bad & lanes) != 0)  // other tasks own other columns
      __atomic_fetch_add(flags, __builtin_popcount(bad & lanes), __ATOMIC_RELAXED);
    float kept[16];
    store(kept, value);
    for (uint32_t i = 0; i < 16; ++i) kept[i] = (bad >> i & 1U) != 0 ? 0.0F : kept[i];
    value = load(kept);
  }
  accumulate_fixed(sums, min(max(value, splat(-0x1p18F)), splat(0x1p18F)));
}

// Where the sums of some panels' columns go, and the strip of each chunk that makes them.
struct OrderFreeStrip {
  const cpu::ExpertArgs* args;
  Strip first;     // of the first chunk; `upcoming` is what comes after the last
  int64_t column;  // of the strip
};

// Rows whose sums a task keeps: with four panels 24 KiB, which stay in the first-level cache.
constexpr int64_t kOrderFreeRows = 48;

// NR panels of the strip, from `p` on, times at most kOrderFreeRows rows. All rows pass over a chunk before
// the next one is read, so that it comes from memory once.
template <typename Step, int NR>
void order_free_block(const OrderFreeStrip& strip, int64_t p, RowRange range) {
  const cpu::ExpertArgs& args = *strip.args;
  const cpu::Weight& w = args.weight;
  const int64_t chunk_bytes = w.panels * w.k_steps * kStepBytes;
  const int64_t column = strip.column + 16 * p;
  auto* out = static_cast<int64_t*>(args.out);
  const auto sums_of = [&](int64_t row) {
    return out + (args.tokens != nullptr ? args.tokens[row] : row) * args.out_stride;
  };
  alignas(64) int64_t sums[kOrderFreeRows][NR * 16];
  for (int64_t i = 0; i < range.end - range.begin; ++i)
    for (int j = 0; j < NR; ++j) clear_fixed(sums[i] + 16 * j);

  const int64_t tiles = tiles_of<NR>(range.end - range.begin);
  Strip chunk = strip.first;
  for (int64_t c = 0; c < w.chunks; ++c, chunk.data += chunk_bytes) {
    chunk.upcoming = c + 1 < w.chunks ? chunk.data + chunk_bytes : strip.first.upcoming;
    const cpu::Rows x{args.x + c * w.k_bytes, args.x_stride_bytes, nullptr};
    const auto add_chunk = [&](int64_t row, const Vec(&acc)[NR]) __attribute__((always_inline)) {
      const Vec gate = splat(args.gate_weights != nullptr ? args.gate_weights[row] : 1.0F);
      int64_t* to = sums[row - range.begin];
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) {
        accumulate_partial(to + 16 * j, sums_of(row) + w.n, mul(acc[j], gate),
                           smaller(16, w.n - column - 16 * j));
      }
    };
    int64_t index = 0;
    for_each_tile<NR>(range.begin, range.end, [&](int64_t row, auto count) {
      tile<Step, count.value, NR>(x, row, chunk.panels(p), add_chunk, chunk.fetch(index++, tiles));
    });
  }

  const int64_t n = smaller(NR * 16, w.n - column);
  for (int64_t row = range.begin; row < range.end; ++row) {
    const int64_t* from = sums[row - range.begin];
    int64_t* to = sums_of(row) + column;
    if (args.assigns)
      for (int64_t k = 0; k < n; ++k) to[k] = from[k];
    else
      for (int64_t k = 0; k < n; ++k) to[k] += from[k];
  }
}

template <typename Step>
void order_free_strip(const OrderFreeStrip& strip, RowRange range) {
  for_each_run<kTilePanels>(strip.first.width, [&](int64_t p, auto panels) {
    for (int64_t begin = range.begin; begin < range.end; begin += kOrderFreeRows)
      order_free_block<Step, panels.value>(strip, p, {begin, smaller(range.end, begin + kOrderFreeRows)});
  });
}

// A task owns a strip of output columns for all experts and rows, so no two tasks add to one sum.
void order_free_matmul(ThreadPool& pool, const cpu::ExpertArgs& args) {
  const cpu::Weight& w = args.weight;
  if (args.assigns) {
    for (int64_t row = 0; row < args.num_rows; ++row)
      static_cast<int64_t*>(args.out)[row * args.out_stride + w.n] = 0;
  }
  const int64_t active = num_active(args);
  pool.parallel(strips_of(w), [&](int64_t task) {
    for (int64_t i = 0; i < active; ++i) {
      const int64_t expert = active_expert(args, i);
      OrderFreeStrip strip{&args, strip_of(w, args.experts[expert], task), task * kStripPanels * 16};
      // After the last expert the first one again, with another strip: the threads take them by turns.
      const bool last = i + 1 == active;
      const std::byte* next = args.experts[active_expert(args, last ? 0 : i + 1)];
      strip.first.upcoming = strip_of(w, next, task + (last ? pool.size() : 0)).data;
      if (args.is_bf16)
        order_free_strip<Bf16Step>(strip, rows_of(args, expert));
      else
        order_free_strip<F32Step>(strip, rows_of(args, expert));
    }
  });
}
