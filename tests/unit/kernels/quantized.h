// Helpers of the tests of quantized formats: matrices and rows that are quantized, and what they stand for.
#pragma once

#include <sstream>

#include "kernels/quantize.h"
#include "kernels/ref/quantize.h"
#include "unit/kernels/expert_rows.h"

namespace chorale {

// The element of a packed int8 or int4 matrix, as the header's picture of the layout has it. `panel` counts
// those of both halves of a fused pair.
struct PackedElement {
  int64_t q = 0;
  float scale = 0;
  float zero = 0;
  float value() const { return scale * (static_cast<float>(q) - zero); }
};
inline PackedElement packed_element(const TestWeights& w, int64_t chunk, int64_t panel, int64_t lane,
                                    int64_t input) {
  const WeightLayout& l = w.layout;
  const bool int4 = l.format == WeightFormat::int4;
  const int64_t group_words = 1 + l.group_k / (int4 ? 8 : 4);
  const int64_t groups = (l.k / l.k_chunks + l.group_k - 1) / l.group_k;
  const int64_t panels = (l.n / l.n_chunks + 15) / 16 * (l.fused_pair ? 2 : 1);
  const int64_t width = std::min<int64_t>(4, panels - panel / 4 * 4);
  const auto step_at = [&](int64_t step) {
    // Chunks of outputs follow each other, those of inputs lie within a strip.
    const int64_t panels_before =
        l.k_chunks > 1 ? panel / 4 * 4 * l.k_chunks + chunk * width : chunk * panels + panel / 4 * 4;
    const int64_t steps_before = panels_before * groups * group_words + step * width;
    return w.bytes.data() + (steps_before + panel % 4) * 64 + lane * 4;
  };
  const int64_t first = input / l.group_k * group_words;
  const int64_t i = input % l.group_k;
  PackedElement element;
  if (int4) {
    uint16_t halves[2];
    std::memcpy(halves, step_at(first), 4);
    element.scale = to_float(f16{halves[0]});
    element.zero = to_float(f16{halves[1]});
    const auto byte = static_cast<int64_t>(step_at(first + 1 + i / 8)[i % 4]);
    element.q = i % 8 < 4 ? byte & 15 : byte >> 4;
  } else {
    std::memcpy(&element.scale, step_at(first), 4);
    element.zero = 128;
    element.q = static_cast<int64_t>(step_at(first + 1 + i / 4)[i % 4]);
  }
  return element;
}

// What a packed matrix stands for, and a bound of what its products are made of: int4 takes q and the zero
// apart.
struct Unpacked {
  ref::Matrix values, magnitudes;
};
inline Unpacked unpack(const TestWeights& w, int half = 0) {
  const WeightLayout& l = w.layout;
  Unpacked out{{l.n, l.k}, {l.n, l.k}};
  for (int64_t n = 0; n < l.n; ++n) {
    for (int64_t k = 0; k < l.k; ++k) {
      const int64_t chunk = l.n_chunks > 1 ? n / l.chunk_n() : k / l.chunk_k();
      const int64_t output = l.n_chunks > 1 ? n % l.chunk_n() : n;
      const int64_t panel = l.fused_pair ? output / 16 * 2 + half : output / 16;
      const PackedElement e = packed_element(w, chunk, panel, output % 16, k % l.chunk_k());
      out.values.at(n, k) = e.value();
      out.magnitudes.at(n, k) = l.format == WeightFormat::int4
                                    ? e.scale * (static_cast<float>(e.q) + std::fabs(e.zero))
                                    : std::fabs(e.value());
    }
  }
  return out;
}

inline WeightLayout quantized_layout(WeightFormat format, int64_t n, int64_t k, int64_t n_chunks = 1,
                                     int64_t k_chunks = 1, bool fused_pair = false) {
  WeightLayout layout{format, n, k, n_chunks, k_chunks, fused_pair};
  layout.group_k = choose_group(format, layout.chunk_k());
  return layout;
}

// A tensor of rows that are quantized for a layout.
inline TestTensor quantized(const Stream& stream, const TestTensor& x, const WeightLayout& layout) {
  TestTensor rows(DType::u8, x->rows(), quantized_row_bytes(layout));
  quantize_rows(stream, x, layout, rows);
  return rows;
}
inline ref::Matrix dequantized(const ref::Matrix& x, const WeightLayout& layout) {
  return ref::dequantize(ref::quantize(x, layout.k_chunks, layout.group_k), x.columns, layout.k_chunks,
                         layout.group_k);
}

struct QuantizedVariant {
  InstructionSet isa;
  WeightFormat format;
  DType dtype;  // of activations
};
inline std::ostream& operator<<(std::ostream& out, const QuantizedVariant& b) {
  return out << name_of(b.isa) << (b.format == WeightFormat::int8 ? "_int8_" : "_int4_") << name_of(b.dtype);
}
inline std::vector<QuantizedVariant> all_quantized_variants() {
  std::vector<QuantizedVariant> variants;
  for (InstructionSet isa : available_instruction_sets())
    for (WeightFormat format : {WeightFormat::int8, WeightFormat::int4})
      for (DType dtype : {DType::bf16, DType::f32}) variants.push_back({isa, format, dtype});
  return variants;
}
inline std::string name_of_quantized_variant(const testing::TestParamInfo<QuantizedVariant>& info) {
  std::ostringstream name;
  name << info.param;
  return name.str();
}

class QuantizedTest : public testing::TestWithParam<QuantizedVariant> {
 protected:
  WeightFormat format() const { return GetParam().format; }
  DType dtype() const { return GetParam().dtype; }
  std::array<Stream, 2> all_streams() const { return streams(GetParam().isa); }
  Stream stream() const { return all_streams()[0]; }
};

}  // namespace chorale
