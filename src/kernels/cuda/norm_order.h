// The order in which a GPU's norms add up squares: pure arithmetic, the same for the host and for kernels. It
// depends on the number of columns alone.
//
// Each thread adds the squares of its own columns by fused multiply-adds, in ascending order. Then the 32
// threads of a warp exchange: five times every one adds the sum of the thread whose number differs in one
// bit, 16 first and 1 last. Where there are several warps, their sums are added up in the same way, absent
// ones as zero.
#pragma once

#include <cstdint>

namespace chorale::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kMaxNormThreads = 1024;

// A row: runs of kNormRun neighbouring columns go to the threads by turns.
inline constexpr int kNormRun = 4;

// Threads of a row, in whole warps: enough for two runs each.
constexpr int norm_threads(int64_t columns) {
  const int64_t wanted = (columns + 2 * kNormRun - 1) / (2 * kNormRun);
  const int64_t whole = (wanted + kWarp - 1) / kWarp * kWarp;
  return static_cast<int>(whole < kWarp ? kWarp : whole > kMaxNormThreads ? kMaxNormThreads : whole);
}

// A head: one warp, to whose threads runs of its first half go by turns. A thread also has the run that is
// half a head further, as rotation wants it, and adds that after the first.
constexpr int head_run(int64_t head_dim) {
  return head_dim / 2 % 2 == 0 ? 2 : 1;
}

}  // namespace chorale::cuda
