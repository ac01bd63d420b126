// How rows of 4-byte words become a panel of a packed matrix.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"

namespace chorale::CHORALE_ISA {
namespace {

// Full vectors are transposed in registers; what is left of a row goes element by element.
template <bool counts_nan>
int64_t interleave_panel(const cpu::InterleaveArgs& args) {
  const auto row = [&](int64_t lane) {
    return reinterpret_cast<const float*>(args.rows + lane * args.row_bytes);
  };
  int64_t nans = 0;
  int64_t s = 0;
  for (; s + 16 <= args.words; s += 16) {
    Vec block[16];
    for (int lane = 0; lane < 16; ++lane) {
      block[lane] = lane < args.lanes ? load(row(lane) + s) : zero();
      if constexpr (counts_nan) nans += count_bf16_nan(block[lane]);
    }
    transpose(block);
    for (int word = 0; word < 16; ++word)
      store(reinterpret_cast<float*>(args.panel + (s + word) * args.word_stride), block[word]);
  }
  for (; s < args.words; ++s) {
    uint32_t word[16] = {};
    for (int64_t lane = 0; lane < args.lanes; ++lane) {
      std::memcpy(&word[lane], row(lane) + s, 4);
      if constexpr (counts_nan) {
        for (const uint32_t half : {word[lane], word[lane] >> 16}) nans += (half & 0x7FFFU) > 0x7F80U ? 1 : 0;
      }
    }
    std::memcpy(args.panel + s * args.word_stride, word, sizeof(word));
  }
  return nans;
}

int64_t interleave(const cpu::InterleaveArgs& args) {
  return args.counts_bf16_nan ? interleave_panel<true>(args) : interleave_panel<false>(args);
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
