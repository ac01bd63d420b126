// A weight matrix [N, K] packed for matrix products in which every SIMD lane is one output and K runs in
// order.
//
// The outputs are cut into n_chunks equal ranges or the inputs into k_chunks equal ranges (never both), which
// are the canonical chunks of the sharding plan; a tensor-parallel rank's shard is some of them. Within a
// chunk, outputs are grouped into panels of kPanelWidth, the last one filled up with zeros, and panels into
// strips of kStripPanels, the last one of those that are left. 144 outputs whose inputs are cut into two
// chunks:
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
#include <functional>

#include "base/dtype.h"
#include "kernels/packed_strides.h"
#include "kernels/shapes.h"
#include "kernels/weight_format.h"

namespace chorale {

// Shape of a packed matrix; pure arithmetic.
struct PackedLayout {
  WeightFormat format = WeightFormat::bf16;
  int64_t n = 0;  // outputs; gate's alone when fused_pair
  int64_t k = 0;  // inputs
  int64_t n_chunks = 1;
  int64_t k_chunks = 1;
  bool fused_pair = false;  // gate and up: panels alternate, twice as many
  int64_t group_k = 0;      // inputs of a group; quantized formats alone
  // A slice of inputs has some of the chunks that a strip has in memory: from which on, of how many.
  int64_t first_k_chunk = 0;
  int64_t stored_k_chunks = 0;  // 0: no more than its own

  int64_t chunk_n() const { return n / n_chunks; }
  int64_t chunk_k() const { return k / k_chunks; }
  int64_t groups_per_chunk() const { return (chunk_k() + group_k - 1) / group_k; }
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
  int64_t bytes() const { return n_chunks * k_chunks * chunk_bytes(); }  // a slice counts its own
  int64_t k_chunks_of_strip() const { return stored_k_chunks > 0 ? stored_k_chunks : k_chunks; }
  int64_t strip_width(int64_t strip) const {  // in panels
    return std::min(kStripPanels, panels_per_chunk() - strip * kStripPanels);
  }
  PackedStrides strides() const {
    const int64_t panel_bytes = chunk_k_words() * kPanelWordBytes;
    const bool splits_n = n_chunks > 1;
    return {.chunk = splits_n ? chunk_bytes() : 0,
            .strip = kStripPanels * k_chunks_of_strip() * panel_bytes,
            .panel_of_chunk = splits_n ? 0 : panel_bytes,
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

// A borrowed packed matrix.
struct PackedMatrix {
  PackedLayout layout;
  const std::byte* data = nullptr;
};

// The format of a matrix that is stored in the dtype of the activations, bf16 or f32.
WeightFormat plain_format(DType dtype);

// How many inputs form a group: equal groups of at most 128 for int8 and 64 for int4, and a multiple of
// kGroupUnit. Where the matrix comes from groups of `source_group` inputs (0: it does not), groups that do
// not cross those either; the two must have a common multiple of kGroupUnit. 0 for formats without groups.
inline constexpr int64_t kGroupUnit = 8;
int64_t choose_group(WeightFormat format, int64_t chunk_k, int64_t source_group = 0);

// The layout of a matrix that has `count` of another's canonical chunks and nothing else.
PackedLayout slice_layout(const PackedLayout& layout, int64_t count);

// The layout of `count` of a matrix's canonical chunks, from `first` on, where the matrix lies.
PackedLayout slice_in_place(const PackedLayout& layout, int64_t first, int64_t count);

// The outputs, or inputs, of `count` canonical chunks from `first` on: a tensor-parallel rank's shard. Moves
// no bytes.
PackedMatrix slice_chunks(const PackedMatrix& matrix, int64_t first, int64_t count);

// A matrix [rows, columns] as it lies in a file: row-major, possibly unaligned.
struct SourceMatrix {
  const std::byte* data = nullptr;
  DType dtype = DType::bf16;  // bf16, f16 or f32
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;  // in elements; 0: tightly packed
};

// Packs one chunk of source [N, K] into the matrix that begins at `target`: converts to its format, rounding
// to nearest even where that narrows, and quantizing as quantized_group.h says. For a fused pair, `half` 0 is
// gate and 1 is up; otherwise it is 0. Returns how many source elements are NaN. Call it for every chunk,
// from any thread: chunks do not overlap.
int64_t pack_chunk(const SourceMatrix& source, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half = 0);

// The same from elements that are made or converted as they are needed: read(row, column, count, out) writes
// `count` elements to `out`, of bf16 for a bf16 matrix and else float32, and returns how many are NaN.
using ElementReader = std::function<int64_t(int64_t row, int64_t column, int64_t count, std::byte* out)>;
int64_t pack_chunk(const ElementReader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half = 0);
DType element_dtype(WeightFormat format);  // that an ElementReader writes

// The same from integers that are kept as they are: read(row, column, count, group) gives the elements of a
// group of an int4 matrix, `count` of them from `column` on.
struct Int4Group {
  float scale = 0;  // exact as float16
  float zero = 0;   // likewise
  uint8_t values[64] = {};
};
using Int4Reader = std::function<void(int64_t row, int64_t column, int64_t count, Int4Group& group)>;
void pack_int4_chunk(const Int4Reader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                     int half = 0);

}  // namespace chorale
