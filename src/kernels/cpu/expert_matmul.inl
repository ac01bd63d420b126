// expert_matmul.h on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/strip.inl"
#include "kernels/cpu/vec.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

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

template <typename Product, typename Activation>
void gated_task(const cpu::GatedMatmulArgs& args, int64_t expert, int64_t strip_index) {
  const cpu::ExpertArgs& in = args.in;
  const cpu::Weight& w = in.weight;
  const RowRange range = rows_of(in, expert);
  const int64_t chunk = strip_index / strips_of(w), index = strip_index % strips_of(w);
  Strip strip = strip_of(w, in.experts[expert], chunk, index);
  strip.upcoming = strip.data + strip.bytes();  // a thread goes on with the next strip
  const cpu::Rows x{in.x, in.x_stride_bytes, in.tokens};
  strip_loop<Product, kGatedPanels>(x, range.begin, range.end, strip, [&](int64_t p) {
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

void gated_matmul(ThreadPool& pool, const cpu::GatedMatmulArgs& args) {
  const cpu::Weight& w = args.in.weight;
  const int64_t strips = w.chunks * strips_of(w);
  pool.parallel(num_active(args.in) * strips, [&](int64_t task) {
    const int64_t expert = active_expert(args.in, task / strips);
    with_product(w.format, [&](auto product) {
      using Product = decltype(product);
      if constexpr (!std::is_same_v<Product, F32Product>) {
        if (args.out_is_bf16) return gated_task<Product, bf16>(args, expert, task % strips);
      }
      if constexpr (!std::is_same_v<Product, Bf16Product>) {
        gated_task<Product, float>(args, expert, task % strips);
      }
    });
  });
}

constexpr float kFixedConstants[] = {kFixedOne, kFixedSaturation* kFixedOne};

// Adds 16 partial sums of which some saturate or are not finite; the latter among the first n are counted in
// the row's last column.
__attribute__((noinline)) inline void accumulate_saturated(int64_t* sums, int64_t* flags, Vec value,
                                                           int64_t n) {
  const uint32_t lanes = n >= 16 ? 0xFFFFU : (1U << n) - 1U;
  const uint32_t bad = non_finite_mask(value);
  if ((bad & lanes) != 0)  // other tasks own other columns
    __atomic_fetch_add(flags, __builtin_popcount(bad & lanes), __ATOMIC_RELAXED);
  float kept[16];
  store(kept, min(max(value, splat(-kFixedSaturation)), splat(kFixedSaturation)));
  for (uint32_t i = 0; i < 16; ++i) kept[i] = (bad >> i & 1U) != 0 ? 0.0F : kept[i];
  accumulate_rounded(sums, mul(load(kept), splat(kFixedOne)));
}

// Rounds a row's partial sums of some panels, times its gate weight, to fixed point and adds them to
// integers. Scaling the weight in place of each product gives the same integers: a power of two changes no
// rounding but that of products too small to count.
template <int kPanels>
inline __attribute__((always_inline)) void accumulate_partials(int64_t* sums, int64_t* flags,
                                                               const Vec (&acc)[kPanels], float gate,
                                                               int64_t left) {
  const float* constants = kFixedConstants;
  asm volatile("" : "+r"(constants));  // else they stay in registers during the products, which need them all
  const Vec scale = splat(gate * constants[0]), bound = splat(constants[1]);
  Vec scaled[kPanels];
  uint32_t beyond = 0;
#pragma GCC unroll 4
  for (int j = 0; j < kPanels; ++j) {
    scaled[j] = mul(acc[j], scale);
    beyond |= not_within_mask(scaled[j], bound);
  }
  if (beyond != 0) [[unlikely]] {
    for (int j = 0; j < kPanels; ++j)
      accumulate_saturated(sums + 16 * j, flags, mul(acc[j], splat(gate)), smaller(16, left - 16 * j));
    return;
  }
#pragma GCC unroll 4
  for (int j = 0; j < kPanels; ++j) accumulate_rounded(sums + 16 * j, scaled[j]);
}

constexpr int64_t kStripColumns = kStripPanels * 16;
// Rows whose sums with a strip a task keeps: 24 KiB, which stay in the first-level cache.
constexpr int64_t kOrderFreeRows = 48;

inline int64_t* sums_of_row(const cpu::OrderFreeMatmulArgs& args, int64_t row) {
  const int64_t token = args.in.tokens != nullptr ? args.in.tokens[row] : row;
  return args.sums + token * args.sums_stride;
}

inline void write_sums(const cpu::OrderFreeMatmulArgs& args, int64_t strip, RowRange range,
                       const int64_t (*sums)[kStripColumns]) {
  const int64_t column = strip * kStripColumns;
  const int64_t width = smaller(kStripColumns, args.in.weight.n - column);
  for (int64_t row = range.begin; row < range.end; ++row, ++sums) {
    int64_t* to = sums_of_row(args, row) + column;
    if (args.assigns)
      for (int64_t k = 0; k < width; ++k) to[k] = (*sums)[k];
    else
      for (int64_t k = 0; k < width; ++k) to[k] += (*sums)[k];
  }
}

// At most kOrderFreeRows rows times a strip of an expert's matrix. `upcoming` is what the thread will
// probably read next.
template <typename Product>
void order_free_block(const cpu::OrderFreeMatmulArgs& args, const std::byte* matrix, int64_t index,
                      RowRange range, const std::byte* upcoming) {
  const cpu::Weight& w = args.in.weight;
  alignas(64) int64_t sums[kOrderFreeRows][kStripColumns];
  for (int64_t i = 0; i < range.end - range.begin; ++i)
    for (int64_t j = 0; j < kStripColumns; j += 16) clear_fixed(sums[i] + j);

  for (int64_t c = 0; c < w.chunks; ++c) {
    Strip strip = strip_of(w, matrix, c, index);
    strip.upcoming = c + 1 < w.chunks ? strip.data + strip.bytes() : upcoming;
    const cpu::Rows x{args.in.x + c * w.k_bytes, args.in.x_stride_bytes, nullptr};
    strip_loop<Product>(x, range.begin, range.end, strip, [&](int64_t p) {
      const int64_t left = w.n - index * kStripColumns - 16 * p;
      return [&args, &w, &sums, left, p, begin = range.begin ](int64_t row, const auto& acc)
          __attribute__((always_inline)) {
        const float gate = args.gate_weights != nullptr ? args.gate_weights[row] : 1.0F;
        accumulate_partials(sums[row - begin] + 16 * p, sums_of_row(args, row) + w.n, acc, gate, left);
      };
    });
  }
  write_sums(args, index, range, sums);
}

// Into how many tasks the strips are cut. Few rows wait for memory, which is read fastest in long runs.
inline int64_t order_free_tasks(const cpu::Weight& w, int64_t most_rows, int64_t num_threads) {
  constexpr int64_t kLongRun = 512 << 10;
  const int64_t strips = strips_of(w);
  if (most_rows > kOrderFreeRows) return strips;
  const int64_t bytes = w.chunks * w.panels * w.k_words * kPanelWordBytes;
  const int64_t tasks = larger(1, bytes / kLongRun);
  return smaller(strips, (tasks + num_threads - 1) / num_threads * num_threads);
}

// A task owns some strips of output columns for all experts and rows, so no two tasks add to one sum.
void order_free_matmul(ThreadPool& pool, const cpu::OrderFreeMatmulArgs& args) {
  const cpu::ExpertArgs& in = args.in;
  const cpu::Weight& w = in.weight;
  if (args.assigns) {
    for (int64_t row = 0; row < in.num_rows; ++row) sums_of_row(args, row)[w.n] = 0;
  }
  const int64_t active = num_active(in);
  int64_t most_rows = 0;
  for (int64_t i = 0; i < active; ++i) {
    const RowRange range = rows_of(in, active_expert(in, i));
    most_rows = larger(most_rows, range.end - range.begin);
  }
  const int64_t tasks = order_free_tasks(w, most_rows, pool.size());
  pool.parallel(tasks, [&](int64_t task) {
    const int64_t first = task * strips_of(w) / tasks, end = (task + 1) * strips_of(w) / tasks;
    for (int64_t i = 0; i < active; ++i) {
      const std::byte* matrix = in.experts[active_expert(in, i)];
      // After the last expert the first one again, with the next strips.
      const bool last = i + 1 == active;
      const std::byte* next =
          strip_of(w, in.experts[active_expert(in, last ? 0 : i + 1)], 0, last ? end : first).data;
      const RowRange rows = rows_of(in, active_expert(in, i));
      with_product(w.format, [&](auto product) {
        for (int64_t index = first; index < end; ++index) {
          const std::byte* upcoming = index + 1 < end ? strip_of(w, matrix, 0, index + 1).data : next;
          for (int64_t begin = rows.begin; begin < rows.end; begin += kOrderFreeRows)
            order_free_block<decltype(product)>(args, matrix, index,
                                                {begin, smaller(rows.end, begin + kOrderFreeRows)}, upcoming);
        }
      });
    }
  });
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
