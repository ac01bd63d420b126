// A weight matrix [N, K] packed for matrix products in which every SIMD lane is one output and K runs in
// order.
//
// The outputs are cut into n_chunks equal ranges or the inputs into k_chunks equal ranges (never both), which
// are the canonical chunks of the sharding plan; a tensor-parallel rank's shard is a contiguous range of the
// packed bytes. Within a chunk, outputs are grouped into panels of kPanelWidth, the last one filled up with
// zeros, and panels into strips of kStripPanels, the last one of those that are left. A strip is one run of
// memory in the order in which a product of few rows reads it:
//
//   bf16     [chunk][strip][K/2][panel][16][2]   two neighbouring inputs of one output side by side; odd K is
//                                                padded
//   float32  [chunk][strip][K][panel][16]
//
// where K is the chunk's own number of inputs. A fused gate/up matrix alternates one panel of each
// (`fused_pair`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/dtype.h"
#include "kernels/shapes.h"

namespace chorale {

inline constexpr int64_t kStripPanels = 4;
inline constexpr int64_t kStepBytes = kPanelWidth * 4;  // of one panel

// Shape of a packed matrix; pure arithmetic.
struct PackedLayout {
  DType dtype = DType::bf16;  // bf16 or f32
  int64_t n = 0;              // outputs; of gate alone when fused_pair
  int64_t k = 0;              // inputs
  int64_t n_chunks = 1;
  int64_t k_chunks = 1;
  bool fused_pair = false;  // gate and up: panels alternate, twice as many

  int64_t chunk_n() const { return n / n_chunks; }
  int64_t chunk_k() const { return k / k_chunks; }
  // K steps of a panel: pairs for bf16, single inputs for f32.
  int64_t chunk_k_steps() const { return dtype == DType::bf16 ? (chunk_k() + 1) / 2 : chunk_k(); }
  int64_t panels_per_chunk() const {
    return (chunk_n() + kPanelWidth - 1) / kPanelWidth * (fused_pair ? 2 : 1);
  }
  int64_t chunk_bytes() const { return panels_per_chunk() * chunk_k_steps() * kStepBytes; }
  int64_t bytes() const { return n_chunks * k_chunks * chunk_bytes(); }
  // Where panel `panel` of a chunk (of either kind) begins, from the start of the matrix, and how far its K
  // steps of kStepBytes lie apart.
  int64_t panel_offset(int64_t chunk, int64_t panel) const {
    const int64_t in_strip = panel % kStripPanels;
    return chunk * chunk_bytes() + (panel - in_strip) * chunk_k_steps() * kStepBytes + in_strip * kStepBytes;
  }
  int64_t step_stride(int64_t panel) const {
    const int64_t left = panels_per_chunk() - panel / kStripPanels * kStripPanels;
    return (left < kStripPanels ? left : kStripPanels) * kStepBytes;
  }
};

// A borrowed packed matrix.
struct PackedMatrix {
  PackedLayout layout;
  const std::byte* data = nullptr;
};

// The layout of `count` of a matrix's canonical chunks.
PackedLayout slice_layout(const PackedLayout& layout, int64_t count);

// The outputs, or inputs, of `count` canonical chunks from `first` on: a tensor-parallel rank's shard. Moves
// no bytes.
PackedMatrix slice_chunks(const PackedMatrix& matrix, int64_t first, int64_t count);

// A matrix [rows, columns] as it lies in a file: row-major, tightly packed, possibly unaligned.
struct SourceMatrix {
  const std::byte* data = nullptr;
  DType dtype = DType::bf16;  // bf16, f16 or f32
  int64_t rows = 0;
  int64_t columns = 0;
};

// Packs one chunk of source [N, K] into the matrix that begins at `target`: converts to its dtype, rounding
// to nearest even where that narrows. For a fused pair, `half` 0 is gate and 1 is up; otherwise it is 0.
// Returns how many source elements are NaN. Call it for every chunk, from any thread: chunks do not overlap.
int64_t pack_chunk(const SourceMatrix& source, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half = 0);

// The same from elements that are made or converted as they are needed: read(row, column, count, out) writes
// `count` elements of the matrix's dtype to `out`, and returns how many are NaN.
using ElementReader = std::function<int64_t(int64_t row, int64_t column, int64_t count, std::byte* out)>;
int64_t pack_chunk(const ElementReader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half = 0);

// Converts `count` elements from a file's dtype (bf16, f16 or f32) to bf16 or f32 storage; returns how many
// are NaN.
int64_t convert_elements(const std::byte* source, DType source_dtype, std::byte* target, DType target_dtype,
                         int64_t count);

}  // namespace chorale
