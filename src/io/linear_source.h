// A weight of a model, by its logical name and shape, in whichever of the forms of io/linear_tensors.h a
// checkpoint has it: as values of the model's dtypes, and int4 ones also as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "io/checkpoint.h"
#include "io/linear_tensors.h"
#include "io/quantization_config.h"

namespace chorale::io {

// Immutable; safe to use from many threads. Valid while the checkpoint lives. Cheap enough to make for each
// piece of work: it keeps nothing but, for g_idx out of order, a copy of that.
class LinearSource {
 public:
  // `shape` is that of the logical weight: [N, K], or [N] of a plain vector, which then has one row. Throws
  // Error that names the file and the tensor, what was expected and what was found. Of the tensors' contents
  // g_idx alone is read.
  static LinearSource open(const Checkpoint& checkpoint, const QuantizationConfig& config,
                           std::string_view name, std::span<const int64_t> shape);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  const LinearTensors& tensors() const { return tensors_; }
  uint64_t bytes() const { return tensors_.bytes(); }

  // Writes `count` neighbouring elements of a row as bf16, rounded to nearest even, or f32. Returns how many
  // are NaN.
  int64_t read(int64_t row, int64_t column, int64_t count, std::byte* out, DType dtype) const;

  // Whether the elements lie in tensors().weight, row by row.
  bool is_plain() const { return form() == LinearTensors::Form::plain; }
  // Whether the weight is made of 4-bit values, which the next ones give.
  bool is_int4() const { return form() == LinearTensors::Form::gptq || form() == LinearTensors::Form::awq; }
  // How many neighbouring inputs share a scale and a zero; the last group may have less. Where the groups are
  // not in order, their size alone.
  int64_t group_size() const { return group_size_; }
  // Whether the group of input k is k / group_size().
  bool groups_in_order() const { return groups_.empty(); }
  // The stored values, 0 to 15.
  void read_values(int64_t row, int64_t column, int64_t count, uint8_t* out) const;
  // Scale and zero of the group that the input `column` belongs to. The scale is exact; the zero is 0 to 16.
  float scale(int64_t row, int64_t column) const;
  int zero(int64_t row, int64_t column) const;

  // Drops the pages of all of its tensors.
  void release() const;

 private:
  LinearSource(const Checkpoint& checkpoint, LinearTensors tensors)
      : checkpoint_(&checkpoint), tensors_(tensors) {}

  LinearTensors::Form form() const { return tensors_.form; }
  int64_t group_of(int64_t column) const;
  float group_scale(int64_t row, int64_t group) const;
  int group_zero(int64_t row, int64_t group) const;
  void dequantize_fp8(int64_t row, int64_t column, std::span<float> out) const;
  void dequantize_int4(int64_t row, int64_t column, std::span<float> out) const;

  const Checkpoint* checkpoint_;
  LinearTensors tensors_;
  int64_t rows_ = 1;
  int64_t columns_ = 0;
  int64_t block_rows_ = 0;
  int64_t block_columns_ = 0;
  int64_t group_size_ = 0;
  int zero_offset_ = 0;          // from the stored zero to the true one
  std::vector<int32_t> groups_;  // each input's group, where they are not in order
};

}  // namespace chorale::io
