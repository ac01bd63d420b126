// The tile of the formats int8 and int4: exact integer products within a group, and one float32 sum over the
// groups, in their order. See quantize.h.

constexpr int64_t kGroupHeader = 8;  // of a row's group: its scale and the sum of its integers

// What a group of 16 outputs has beside its integers.
struct Int8Scales {
  Vec scale;
};
struct Int4Scales {
  Vec scale, negative_zero;
};

// Elements are q - 128, so the integer sum starts at -128 times the sum of the row's integers.
struct Int8Step {
  static constexpr bool is_quantized = true;
  static constexpr int64_t kRowBytes = 4;  // of a row, in one step
  static Int start(int32_t row_sum) { return splat_int(-128 * row_sum); }
  static Int8Scales scales(const std::byte* step) { return {load(reinterpret_cast<const float*>(step))}; }
  static Vec value(Int dot, const Int8Scales& scales, float /*row_sum*/) {
    return mul(int_to_float(dot), scales.scale);
  }
  template <int MR, int NR>
  static inline __attribute__((always_inline)) void multiply_add(Int (&acc)[MR][NR],
                                                                 const std::byte* const (&weight)[NR],
                                                                 const std::byte* const (&x)[MR]) {
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = dot_bytes(acc[i][j], load_int(weight[j]), splat_step(x[i]));
  }
};

struct Int4Step {
  static constexpr bool is_quantized = true;
  static constexpr int64_t kRowBytes = 8;
  static Int start(int32_t /*row_sum*/) { return splat_int(0); }
  static Int4Scales scales(const std::byte* step) {
    const HalfPairs pairs = load_half_pairs(step);
    return {pairs.low, sub(zero(), pairs.high)};
  }
  static Vec value(Int dot, const Int4Scales& scales, float row_sum) {
    return mul(fma(scales.negative_zero, splat(row_sum), int_to_float(dot)), scales.scale);
  }
  template <int MR, int NR>
  static inline __attribute__((always_inline)) void multiply_add(Int (&acc)[MR][NR],
                                                                 const std::byte* const (&weight)[NR],
                                                                 const std::byte* const (&x)[MR]) {
    Int low[NR], high[NR];
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const Int both = load_int(weight[j]);
      low[j] = low_nibbles(both);
      high[j] = high_nibbles(both);
    }
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = dot_bytes(acc[i][j], low[j], splat_step(x[i]));
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = dot_bytes(acc[i][j], high[j], splat_step(x[i] + 4));
  }
};

template <typename Step, int MR, int NR, typename Epilogue, typename SideStep>
inline __attribute__((always_inline)) void quantized_tile(const cpu::Rows& rows, int64_t m,
                                                          const StripPanels& panels, const Epilogue& epilogue,
                                                          const SideStep& side_step) {
  const std::byte* x[MR];
  for (int i = 0; i < MR; ++i) x[i] = row_at(rows, m + i);
  Vec sums[MR][NR];  // in the first-level cache: the registers are for a group's integers
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sums[i][j] = zero();

  for (int64_t s = 0; s < panels.steps;) {
    float scale[MR], row_sum[MR];
    Int acc[MR][NR];
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      int32_t sum;
      std::memcpy(&scale[i], x[i], 4);
      std::memcpy(&sum, x[i] + 4, 4);
      row_sum[i] = static_cast<float>(sum);
      x[i] += kGroupHeader;
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = Step::start(sum);
    }
    asm volatile("" : "+m"(sums));  // else the compiler keeps some of them in registers, and not the integers
    side_step(s);
    const int64_t header = s++;
    for (const int64_t end = s + panels.group_steps; s < end; ++s) {
      side_step(s);
      const std::byte* weight[NR];
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) weight[j] = panels.at(s, j);
      Step::template multiply_add<MR, NR>(acc, weight, x);
#pragma GCC unroll 12
      for (int i = 0; i < MR; ++i) x[i] += Step::kRowBytes;
    }
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const auto scales = Step::scales(panels.at(header, j));
#pragma GCC unroll 12
      for (int i = 0; i < MR; ++i)
        sums[i][j] = fma(Step::value(acc[i][j], scales, row_sum[i]), splat(scale[i]), sums[i][j]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) epilogue(m + i, sums[i]);
}
