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

template <typename Step, typename Activation, int NR>
void gated_tiles(const cpu::ExpertArgs& args, RowRange range, const Panels& panels, int64_t lane,
                 int64_t column, int64_t n) {
  const cpu::Rows x{args.x, args.x_stride_bytes, args.tokens};
  auto* out = static_cast<Activation*>(args.out);
  row_loop<Step, NR>(x, range.begin, range.end, panels, [&](int64_t row, const Vec(&acc)[NR]) {
#pragma GCC unroll 2
    for (int j = 0; j < NR; j += 2) {
      const Vec value = mul(silu(acc[j]), acc[j + 1]);
      const int64_t offset = 8 * j;  // 16 outputs per pair of panels
      store_activation(out + row * args.out_stride + column + offset, value, smaller(16, n - lane - offset));
    }
  });
}

template <typename Step, typename Activation>
void gated_task(const cpu::ExpertArgs& args, int64_t expert, int64_t panel_block) {
  const cpu::Weight& w = args.weight;
  const RowRange range = rows_of(args, expert);
  const int64_t blocks_per_chunk = (w.panels + kGatedPanels - 1) / kGatedPanels;
  const int64_t chunk = panel_block / blocks_per_chunk;
  int64_t panel = panel_block % blocks_per_chunk * kGatedPanels;
  const int64_t last = smaller(w.panels, panel + kGatedPanels);
  const int64_t panel_bytes = w.k_steps * kStepBytes;
  while (panel < last) {
    const Panels panels{args.experts[expert] + (chunk * w.panels + panel) * panel_bytes, panel_bytes,
                        w.k_steps};
    const int64_t lane = panel / 2 * 16;
    const int64_t column = chunk * w.n + lane;
    if (last - panel == kGatedPanels) {
      gated_tiles<Step, Activation, kGatedPanels>(args, range, panels, lane, column, w.n);
      panel += kGatedPanels;
    } else {
      gated_tiles<Step, Activation, 2>(args, range, panels, lane, column, w.n);
      panel += 2;
    }
  }
}

void gated_matmul(ThreadPool& pool, const cpu::ExpertArgs& args) {
  const cpu::Weight& w = args.weight;
  const int64_t blocks = w.chunks * ((w.panels + kGatedPanels - 1) / kGatedPanels);
  pool.parallel(num_active(args) * blocks, [&](int64_t task) {
    const int64_t expert = active_expert(args, task / blocks);
    if (args.is_bf16)
      gated_task<Bf16Step, bf16>(args, expert, task % blocks);
    else
      gated_task<F32Step, float>(args, expert, task % blocks);
  });
}

// Rounds 16 partial sums to fixed point and adds them; what is not finite is counted in the row's last
// column.
inline void accumulate_partial(int64_t* sums, int64_t* flags, Vec value, int64_t n) {
  const uint32_t lanes = n >= 16 ? 0xFFFFU : (1U << n) - 1U;
  const uint32_t bad = non_finite_mask(value) & lanes;
  if (bad != 0) [[unlikely]] {
    __atomic_fetch_add(flags, __builtin_popcount(bad), __ATOMIC_RELAXED);  // other tasks own other columns
    float kept[16];
    store(kept, value);
    for (uint32_t i = 0; i < 16; ++i) kept[i] = (bad >> i & 1U) != 0 ? 0.0F : kept[i];
    value = load(kept);
  }
  accumulate_fixed(sums, min(max(value, splat(-0x1p18F)), splat(0x1p18F)), n);
}

template <typename Step>
void order_free_expert(const cpu::ExpertArgs& args, int64_t expert, int64_t first_panel) {
  const cpu::Weight& w = args.weight;
  const RowRange range = rows_of(args, expert);
  const int64_t panel_bytes = w.k_steps * kStepBytes;
  const int64_t count = smaller(kTilePanels, w.panels - first_panel);
  auto* sums = static_cast<int64_t*>(args.out);
  for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
    const cpu::Rows x{args.x + chunk * w.k_bytes, args.x_stride_bytes, nullptr};
    const Panels panels{args.experts[expert] + (chunk * w.panels + first_panel) * panel_bytes, panel_bytes,
                        w.k_steps};
    panel_loop<Step>(x, range.begin, range.end, panels, count, [&](int64_t p) {
      const int64_t column = (first_panel + p) * 16;
      return [&args, &w, sums, column](int64_t row, const auto& acc) {
        const int64_t token = args.tokens != nullptr ? args.tokens[row] : row;
        const Vec gate = splat(args.gate_weights != nullptr ? args.gate_weights[row] : 1.0F);
        int64_t* out = sums + token * args.out_stride;
        constexpr int64_t kPanels = sizeof(acc) / sizeof(acc[0]);
#pragma GCC unroll 4
        for (int64_t j = 0; j < kPanels; ++j) {
          const int64_t at = column + 16 * j;
          accumulate_partial(out + at, out + w.n, mul(acc[j], gate), smaller(16, w.n - at));
        }
      };
    });
  }
}

// A task owns a range of output columns for all experts and rows, so no two tasks add to one sum.
void order_free_matmul(ThreadPool& pool, const cpu::ExpertArgs& args) {
  const cpu::Weight& w = args.weight;
  pool.parallel((w.panels + kTilePanels - 1) / kTilePanels, [&](int64_t task) {
    for (int64_t i = 0; i < num_active(args); ++i) {
      const int64_t expert = active_expert(args, i);
      if (args.is_bf16)
        order_free_expert<Bf16Step>(args, expert, task * kTilePanels);
      else
        order_free_expert<F32Step>(args, expert, task * kTilePanels);
    }
  });
}
