// A weight matrix [N, K] as a CPU has it: packed for matrix products in which every SIMD lane is one output
// and K runs in order.
//
// Within a canonical chunk, outputs are grouped into panels of kPanelWidth, the last one filled up with
// zeros, and panels into strips of kStripPanels, the last one of those that are left. 144 outputs whose
// inputs are cut into two chunks:
//
//               outputs: 16   16   16   16    16   16   16   16    16
//                      +----+----+----+----++----+----+----+----++----+
//   inputs of chunk 0  | p0 | p1 | p2 | p3 || p4 | p5 | p6 | p7 || p8 |     p: a panel
//                      +----+----+----+----++----+----+----+----++----+
//   inputs of chunk 1  | p0 | p1 | p2 | p3 || p4 | p5 | p6 | p7 || p8 |
//                      +----+----+----+----++----+----+----+----++----+
//                             strip 0             strip 1       strip 2
//
//   in memory          strip 0, chunk 0 | strip 0, chunk 1 | strip 1, chunk 0 | ... | strip 2, chunk 1
//   a strip's chunk    word 0 of p0, of p1, of p2, of p3 | word 1 of p0, of p1, of p2, of p3 | ...
//   a panel's word     4 bytes of its first output, of its second, ..., of its 16th: one word of each lane
//
// A thread that multiplies neighbouring strips by all inputs so reads one run of memory, in this order:
//
//   bf16     [chunk of outputs][strip][chunk of inputs][K/2][panel][16][2]   two neighbouring inputs of one
//                                                            output side by side; odd K is padded
//   float32  [chunk of outputs][strip][chunk of inputs][K][panel][16]
//   int8     [chunk of outputs][strip][chunk of inputs][group][1 + G/4][panel][16][4]
//   int4     [chunk of outputs][strip][chunk of inputs][group][1 + G/8][panel][16][4]
//
// where K is a chunk's own number of inputs, and G the inputs of a group, a multiple of 8; the last group
// of a chunk is padded. The first word of a group is its scales, a float32 for int8, and a float16 scale
// below a float16 zero for int4. The others hold unsigned integers, four of int8; of int4 a byte i of word s
// has input 8s + i in its lower half and input 8s + 4 + i in its upper. A group never crosses a chunk, so
// that a chunk's product is the same whoever computes it. A fused gate/up matrix alternates one panel of each
// (`fused_pair`).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/packed_strides.h"
#include "kernels/weight_matrix.h"

namespace chorale::cpu {

// Where a matrix's parts lie; pure arithmetic.
struct PackedLayout : WeightLayout {
  explicit PackedLayout(const WeightLayout& layout) : WeightLayout(layout) {}

  // Words of a group without its scales.
  int64_t group_words() const { return group_k / elements_per_word(format); }
  // Words of a panel: the inputs, and the scales.
  int64_t chunk_k_words() const {
    if (is_quantized(format)) return groups_per_chunk() * (1 + group_words());
    return (chunk_k() + elements_per_word(format) - 1) / elements_per_word(format);
  }
  int64_t panels_per_chunk() const {
    return (chunk_n() + kPanelWidth - 1) / kPanelWidth * (fused_pair ? 2 : 1);
  }
  int64_t chunk_bytes() const { return panels_per_chunk() * chunk_k_words() * kPanelWordBytes; }
  int64_t bytes() const { return num_chunks() * chunk_bytes(); }  // a slice counts its own
  int64_t strip_width(int64_t strip) const {                      // in panels
    return std::min(kStripPanels, panels_per_chunk() - strip * kStripPanels);
  }
  PackedStrides strides() const {
    const int64_t panel_bytes = chunk_k_words() * kPanelWordBytes;
    return {.chunk = splits_n() ? chunk_bytes() : 0,
            .strip = kStripPanels * all_k_chunks() * panel_bytes,
            .panel_of_chunk = splits_n() ? 0 : panel_bytes,
            .first_chunk = first_k_chunk};
  }
  // Where panel `panel` of a chunk (of either kind) begins, from the start of the matrix, and how far its
  // words of kPanelWordBytes lie apart.
  int64_t panel_offset(int64_t chunk, int64_t panel) const {
    const int64_t strip = panel / kStripPanels;
    return strides().offset(chunk, strip, strip_width(strip)) + panel % kStripPanels * kPanelWordBytes;
  }
  int64_t word_stride(int64_t panel) const { return strip_width(panel / kStripPanels) * kPanelWordBytes; }
};

// Packs one chunk of source [N, K] into the matrix that begins at `target`: converts to its format, rounding
// to nearest even where that narrows, and quantizing as quantized_group.h says. For a fused pair, `half` 0 is
// gate and 1 is up; otherwise it is 0. Returns how many source elements are NaN. Call it for every chunk,
// from any thread: chunks do not overlap.
int64_t pack_chunk(const SourceMatrix& source, const WeightLayout& layout, std::byte* target, int64_t chunk,
                   int half = 0);
int64_t pack_chunk(const ElementReader& read, const WeightLayout& layout, std::byte* target, int64_t chunk,
                   int half = 0);
void pack_int4_chunk(const Int4Reader& read, const WeightLayout& layout, std::byte* target, int64_t chunk,
                     int half = 0);

}  // namespace chorale::cpu
