#include "io/linear_source.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include "base/element_rows.h"
#include "base/error.h"
#include "base/float8.h"
#include "io/linear_checks.h"

namespace chorale::io {
namespace {

using Form = LinearTensors::Form;

constexpr int64_t kBlock = 256;  // elements that are converted at a time
constexpr int64_t kPerWord = 8;  // int4 values in a word
constexpr int64_t kWordBytes = 4;

// The bits of AWQ's words in which output n % 8 begins.
constexpr std::array<unsigned, kPerWord> kAwqShift = {0, 16, 4, 20, 8, 24, 12, 28};

constexpr std::array<float, 256> make_float8_table() {
  std::array<float, 256> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = to_float(f8_e4m3{static_cast<uint8_t>(i)});
  return table;
}
constexpr std::array<float, 256> kFloat8 = make_float8_table();

uint32_t load_word(const std::byte* words, int64_t index) {
  return load_element<uint32_t>(words + index * kWordBytes);
}

// One output's values of the inputs from `column` on; `words` [K/8, stride] begins at that output.
void read_gptq_values(const std::byte* words, int64_t stride, int64_t column, std::span<uint8_t> out) {
  size_t i = 0;
  while (i < out.size()) {
    const int64_t at = column + static_cast<int64_t>(i);
    uint32_t word = load_word(words, at / kPerWord * stride) >> (at % kPerWord * 4);
    const size_t end = std::min(out.size(), i + static_cast<size_t>(kPerWord - at % kPerWord));
    for (; i < end; ++i, word >>= 4) out[i] = word & 0xFU;
  }
}

// The same of words [K, stride].
void read_awq_values(const std::byte* words, int64_t stride, unsigned shift, std::span<uint8_t> out) {
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = (load_word(words, static_cast<int64_t>(i) * stride) >> shift) & 0xFU;
}

}  // namespace

LinearSource LinearSource::open(const Checkpoint& checkpoint, const QuantizationConfig& config,
                                std::string_view name, std::span<const int64_t> shape) {
  LinearSource source(checkpoint, find_linear(checkpoint, config, name));
  check_linear(checkpoint, config, source.tensors_, name, shape);
  source.columns_ = shape.back();
  if (shape.size() == 2) source.rows_ = shape.front();
  source.block_rows_ = config.block_rows;
  source.block_columns_ = config.block_columns;
  if (source.is_int4()) {
    source.group_size_ = group_size_of(config, source.columns_);
    source.zero_offset_ = config.zeros_minus_one ? 1 : 0;
    source.groups_ = groups_out_of_order(checkpoint, source.tensors_, source.group_size_);
  }
  return source;
}

int64_t LinearSource::read(int64_t row, int64_t column, int64_t count, std::byte* out, DType dtype) const {
  CHORALE_CHECK(row >= 0 && row < rows_ && column >= 0 && count >= 0 && count <= columns_ - column);
  if (count == 0) return 0;  // `out` may be null
  const TensorEntry& weight = *tensors_.weight;
  if (form() == Form::plain) {
    const int64_t first = (row * columns_ + column) * static_cast<int64_t>(size_of(weight.dtype));
    return convert_elements(weight.bytes.data() + first, weight.dtype, out, dtype, count);
  }
  std::array<float, kBlock> values;
  int64_t nans = 0;
  for (int64_t done = 0; done < count; done += kBlock) {
    const std::span<float> block(values.data(), static_cast<size_t>(std::min(kBlock, count - done)));
    if (form() == Form::fp8)
      dequantize_fp8(row, column + done, block);
    else
      dequantize_int4(row, column + done, block);
    nans += convert_elements(std::as_bytes(block).data(), DType::f32,
                             out + done * static_cast<int64_t>(size_of(dtype)), dtype, std::ssize(block));
  }
  return nans;
}

void LinearSource::dequantize_fp8(int64_t row, int64_t column, std::span<float> out) const {
  const std::byte* elements = tensors_.weight->bytes.data() + row * columns_ + column;
  const TensorEntry& scales = *tensors_.scales;
  const int64_t first_scale = row / block_rows_ * scales.shape[1];
  size_t i = 0;
  while (i < out.size()) {
    const int64_t at = column + static_cast<int64_t>(i);
    const int64_t index = first_scale + at / block_columns_;
    const float scale =
        load_float(scales.bytes.data() + index * static_cast<int64_t>(size_of(scales.dtype)), scales.dtype);
    const size_t end = std::min(out.size(), i + static_cast<size_t>(block_columns_ - at % block_columns_));
    for (; i < end; ++i) out[i] = kFloat8[static_cast<size_t>(elements[i])] * scale;
  }
}

void LinearSource::dequantize_int4(int64_t row, int64_t column, std::span<float> out) const {
  std::array<uint8_t, kBlock> values;
  read_values(row, column, std::ssize(out), values.data());
  const bool in_order = groups_in_order();
  size_t i = 0;
  while (i < out.size()) {
    const int64_t at = column + static_cast<int64_t>(i);
    const int64_t group = group_of(at);
    const float scale = group_scale(row, group);
    const int zero = group_zero(row, group);
    const int64_t run = in_order ? group_size_ - at % group_size_ : 1;
    const size_t end = std::min(out.size(), i + static_cast<size_t>(run));
    for (; i < end; ++i) out[i] = scale * static_cast<float>(values[i] - zero);
  }
}

void LinearSource::read_values(int64_t row, int64_t column, int64_t count, uint8_t* out) const {
  CHORALE_CHECK(is_int4() && row >= 0 && row < rows_ && column >= 0 && count >= 0 &&
                count <= columns_ - column);
  const std::byte* words = tensors_.weight->bytes.data();
  const std::span<uint8_t> values(out, static_cast<size_t>(count));
  if (form() == Form::gptq) return read_gptq_values(words + row * kWordBytes, rows_, column, values);
  const int64_t stride = rows_ / kPerWord;
  const int64_t first = column * stride + row / kPerWord;
  read_awq_values(words + first * kWordBytes, stride, kAwqShift[static_cast<size_t>(row % kPerWord)], values);
}

int64_t LinearSource::group_of(int64_t column) const {
  return groups_in_order() ? column / group_size_ : groups_[static_cast<size_t>(column)];
}

float LinearSource::group_scale(int64_t row, int64_t group) const {
  const TensorEntry& scales = *tensors_.scales;
  const int64_t index = group * rows_ + row;
  return load_float(scales.bytes.data() + index * static_cast<int64_t>(size_of(scales.dtype)), scales.dtype);
}

int LinearSource::group_zero(int64_t row, int64_t group) const {
  const int64_t lane = row % kPerWord;
  const unsigned shift =
      form() == Form::awq ? kAwqShift[static_cast<size_t>(lane)] : static_cast<unsigned>(lane) * 4;
  const uint32_t word = load_word(tensors_.zeros->bytes.data(), group * (rows_ / kPerWord) + row / kPerWord);
  return static_cast<int>((word >> shift) & 0xFU) + zero_offset_;
}

float LinearSource::scale(int64_t row, int64_t column) const {
  CHORALE_CHECK(is_int4() && row >= 0 && row < rows_ && column >= 0 && column < columns_);
  return group_scale(row, group_of(column));
}

int LinearSource::zero(int64_t row, int64_t column) const {
  CHORALE_CHECK(is_int4() && row >= 0 && row < rows_ && column >= 0 && column < columns_);
  return group_zero(row, group_of(column));
}

void LinearSource::release() const {
  for (const TensorEntry* tensor : tensors_.all())
    if (tensor != nullptr) checkpoint_->release(*tensor);
}

}  // namespace chorale::io
