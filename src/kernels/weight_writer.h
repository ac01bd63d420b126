// Puts weights where a device keeps them: in place where the host may write there, else through staging
// memory, from which the device copies and packs while the host reads on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/dtype.h"
#include "base/tensor.h"
#include "kernels/weight_matrix.h"

namespace chorale {

// For one buffer of weights, which must outlive it. Used by any number of threads at once, for parts that do
// not overlap. Offsets are bytes from the buffer's start. Reading functions are those of weight_matrix.h, and
// what they throw goes through.
class WeightWriter {
 public:
  virtual ~WeightWriter() = default;

  // Writes one canonical chunk of the matrix [N, K] at `offset`: converts to its format, rounding to nearest
  // even where that narrows, and quantizing as quantized_group.h says. For a fused pair, `half` 0 is gate and
  // 1 is up; otherwise it is 0. Returns how many elements are NaN.
  virtual int64_t write_chunk(const ElementReader& read, const WeightLayout& layout, size_t offset,
                              int64_t chunk, int half) = 0;
  virtual int64_t write_chunk(const SourceMatrix& source, const WeightLayout& layout, size_t offset,
                              int64_t chunk, int half) = 0;
  virtual void write_int4_chunk(const Int4Reader& read, const WeightLayout& layout, size_t offset,
                                int64_t chunk, int half) = 0;
  // Writes rows [rows, columns] of `dtype` (that the reader gives), one after the other. Returns how many
  // elements are NaN.
  virtual int64_t write_rows(const ElementReader& read, DType dtype, int64_t rows, int64_t columns,
                             size_t offset) = 0;
  // Returns when everything is where it belongs. No other call is under way.
  virtual void finish() = 0;
};

// max_threads: that write at once.
std::unique_ptr<WeightWriter> make_weight_writer(const Buffer& memory, int max_threads);

}  // namespace chorale
