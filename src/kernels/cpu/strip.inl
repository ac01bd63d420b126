// Strips of packed matrices: which memory a task reads, and what it fetches ahead. See packed_matrix.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/quantized_tile.inl"
#include "kernels/cpu/tile.inl"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

// A strip of a packed matrix.
struct Strip {
  const std::byte* data;
  int64_t width;  // panels, at most kStripPanels
  int64_t words;
  int64_t group_words;        // quantized formats alone
  const std::byte* upcoming;  // the strip that this thread will probably want next; nullptr: not known

  int64_t bytes() const { return width * words * kPanelWordBytes; }
  StripPanels panels(int64_t first) const {
    return {data + first * kPanelWordBytes, width * kPanelWordBytes, words, group_words};
  }
  // What tile `index` of `tiles` over this strip fetches. A tile of its own waits for memory, so it fetches
  // what will be read `words_ahead` words later, near its end of the upcoming strip. Of several, the first
  // finds the strip in the cache, because each fetches a part of the upcoming one.
  FetchAhead fetch(int64_t index, int64_t tiles, int64_t words_ahead) const {
    const std::byte* next = upcoming != nullptr ? upcoming : data;
    if (tiles == 1) {
      const int64_t stride = width * kPanelWordBytes;
      if (words_ahead == 0) return {data, 0, 0, 0, data};
      if (next == data + bytes()) return {data + words_ahead * stride, stride, width, words, data};
      const int64_t ahead = smaller(words, words_ahead);
      const int64_t turn = words - ahead;
      return {data + ahead * stride, stride, width, turn, next - turn * stride};
    }
    if (upcoming == nullptr) return {data, 0, 0, 0, data};
    const int64_t stride =
        kStripPanels * kPanelWordBytes / tiles;  // a line may be asked for twice: next to nothing
    return {next + index * words * stride, stride, (stride + kLineBytes - 1) / kLineBytes, words, next};
  }
};

// Strip `index` of a chunk of outputs, or of inputs, of a packed matrix.
inline Strip strip_of(const cpu::Weight& w, const std::byte* matrix, int64_t chunk, int64_t index) {
  const int64_t width = smaller(w.panels - index * kStripPanels, kStripPanels);
  return {matrix + w.strides.offset(chunk, index, width), width, w.k_words, w.group_words, nullptr};
}
inline int64_t strips_of(const cpu::Weight& w) {
  return (w.panels + kStripPanels - 1) / kStripPanels;
}

// Rows times a strip. make_epilogue(panel) as above.
template <typename Product, int most = kTilePanels, typename MakeEpilogue>
inline void strip_loop(const cpu::Rows& rows, int64_t begin, int64_t end, const Strip& strip,
                       const MakeEpilogue& make_epilogue) {
  for_each_run<most>(strip.width, [&](int64_t p, auto panels) {
    constexpr int NR = panels.value;
    const StripPanels run = strip.panels(p);
    const auto epilogue = make_epilogue(p);
    const int64_t tiles = tiles_of<NR>(end - begin);
    int64_t index = 0;
    for_each_tile<NR>(begin, end, [&](int64_t m, auto count) {
      const FetchAhead fetch = strip.fetch(index++, tiles, Product::words_ahead(count.value));
      if constexpr (Product::is_quantized)
        quantized_tile<Product, count.value, NR>(rows, m, run, epilogue, fetch);
      else
        tile<Product, count.value, NR>(rows, m, run, epilogue, fetch);
    });
  });
}

// Calls run(product) with the product of the format.
template <typename Run>
inline void with_product(WeightFormat format, const Run& run) {
  switch (format) {
    case WeightFormat::bf16:
      return run(Bf16Product());
    case WeightFormat::f32:
      return run(F32Product());
    case WeightFormat::int8:
      return run(Int8Product());
    case WeightFormat::int4:
      return run(Int4Product());
  }
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
