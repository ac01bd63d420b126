// The one matmul tile: a few rows times a few panels, accumulators in registers, K in order.
//
// Both element types advance 4 bytes of the row and 64 bytes of each panel per step.

struct Bf16Step {
  static Vec multiply_add(Vec acc, const std::byte* weight, const std::byte* x) {
    return dot_pairs(acc, load_pairs(weight), splat_pair(reinterpret_cast<const bf16*>(x)));
  }
};

struct F32Step {
  static Vec multiply_add(Vec acc, const std::byte* weight, const std::byte* x) {
    float value;
    std::memcpy(&value, x, sizeof(value));
    return fma(splat(value), load(reinterpret_cast<const float*>(weight)), acc);
  }
};

constexpr int kStepBytes = 64;  // of a panel
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

// Panels that are multiplied together: consecutive ones of a packed matrix.
struct Panels {
  const std::byte* data;
  int64_t stride_bytes;  // from one panel to the next
  int64_t steps;
};

// How far ahead of use the panels are fetched when few rows leave the tile waiting for memory.
constexpr int64_t kPrefetchBytes = 1024;

// What a tile does beside each of its steps: nothing, but for gemm.inl, which fetches what it needs next.
struct NoSideStep {
  void operator()(int64_t /*step*/) const {}
};

// XStep: bytes from one step of a row to the next; more than 4 where the rows of a tile lie side by side.
template <typename Step, int MR, int NR, int64_t XStep = 4, typename Epilogue, typename SideStep = NoSideStep>
inline __attribute__((always_inline)) void tile(const cpu::Rows& rows, int64_t m, const Panels& panels,
                                                const Epilogue& epilogue, const SideStep& side_step = {}) {
  const std::byte* x[MR];
  for (int i = 0; i < MR; ++i) x[i] = row_at(rows, m + i);
  Vec acc[MR][NR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j] = zero();
  const std::byte* w = panels.data;
  for (int64_t s = 0; s < panels.steps; ++s, w += kStepBytes) {
    if constexpr (MR <= 2) {
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) __builtin_prefetch(w + j * panels.stride_bytes + kPrefetchBytes);
    }
    side_step(s);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j)
        acc[i][j] = Step::multiply_add(acc[i][j], w + j * panels.stride_bytes, x[i] + s * XStep);
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) epilogue(m + i, acc[i]);
}

// All rows [begin, end) times NR panels; the epilogue gets (row, accumulators of the NR panels).
template <typename Step, int NR, typename Epilogue>
inline void row_loop(const cpu::Rows& rows, int64_t begin, int64_t end, const Panels& panels,
                     const Epilogue& epilogue) {
  int64_t m = begin;
  for (; m + kTileRows <= end; m += kTileRows) tile<Step, kTileRows, NR>(rows, m, panels, epilogue);
  if constexpr (kTileRows > 4) {
    for (; m + 4 <= end; m += 4) tile<Step, 4, NR>(rows, m, panels, epilogue);
  }
  if constexpr (kTileRows > 2) {
    for (; m + 2 <= end; m += 2) tile<Step, 2, NR>(rows, m, panels, epilogue);
  }
  for (; m < end; ++m) tile<Step, 1, NR>(rows, m, panels, epilogue);
}

// Rows times the panels [first, last) of a run of panels, kTilePanels at a time. make_epilogue(panel) gives
// the epilogue for tiles that start at that panel.
template <typename Step, typename MakeEpilogue>
inline void panel_loop(const cpu::Rows& rows, int64_t begin, int64_t end, Panels panels, int64_t num_panels,
                       const MakeEpilogue& make_epilogue) {
  int64_t p = 0;
  const auto advance = [&](int64_t n) {
    p += n;
    panels.data += n * panels.stride_bytes;
  };
  while (p + kTilePanels <= num_panels) {
    row_loop<Step, kTilePanels>(rows, begin, end, panels, make_epilogue(p));
    advance(kTilePanels);
  }
  if constexpr (kTilePanels > 2) {
    while (p + 2 <= num_panels) {
      row_loop<Step, 2>(rows, begin, end, panels, make_epilogue(p));
      advance(2);
    }
  }
  while (p < num_panels) {
    row_loop<Step, 1>(rows, begin, end, panels, make_epilogue(p));
    advance(1);
  }
}

inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
