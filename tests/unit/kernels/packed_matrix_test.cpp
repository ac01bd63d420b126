#include "kernels/weight_matrix.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

constexpr DType kSourceTypes[] = {DType::bf16, DType::f16, DType::f32};
constexpr DType kTargetTypes[] = {DType::bf16, DType::f32};

// The bits of a float32 NaN that differs from infinity in its lowest bit alone: cutting it off makes
// infinity.
constexpr uint32_t kThinNan = 0x7F800001;

// A matrix in a file's dtype, at an address that is not aligned.
class FileMatrix {
 public:
  FileMatrix(DType dtype, int64_t rows, int64_t columns)
      : bytes_(rows * columns * static_cast<int64_t>(size_of(dtype)) + 1, 0),
        matrix_{bytes_.data() + 1, dtype, rows, columns} {}
  const SourceMatrix& view() const { return matrix_; }

  void set_bits(int64_t i, uint32_t bits) {
    std::memcpy(bytes_.data() + 1 + i * size(), &bits,
                std::min(sizeof(bits), size_of(matrix_.dtype)));  // little-endian
  }
  uint32_t bits(int64_t i) const {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes_.data() + 1 + i * size(), static_cast<size_t>(size()));
    return bits;
  }
  float value(int64_t i) const {
    if (matrix_.dtype == DType::f32) return std::bit_cast<float>(bits(i));
    const auto half = static_cast<uint16_t>(bits(i));
    return matrix_.dtype == DType::bf16 ? to_float(bf16{half}) : to_float(f16{half});
  }
  // Random bit patterns: all exponents, subnormals and infinities too, but no NaN.
  void fill(Random& random) {
    for (int64_t i = 0; i < matrix_.rows * matrix_.columns; ++i) {
      do {
        set_bits(i, static_cast<uint32_t>(random()));
      } while (std::isnan(value(i)));
    }
  }

 private:
  int64_t size() const { return static_cast<int64_t>(size_of(matrix_.dtype)); }
  Bytes bytes_;
  SourceMatrix matrix_;
};

// Element [lane of the panel, input] as the header's picture of the layout has it.
float packed_value(const TestWeights& w, int64_t chunk, int64_t panel, int64_t lane, int64_t input) {
  const int64_t inputs = w.layout.k / w.layout.k_chunks;
  const int64_t chunk_outputs = w.layout.n / w.layout.n_chunks;
  const int64_t panels = (chunk_outputs + 15) / 16 * (w.layout.fused_pair ? 2 : 1);
  // A step is an input of float32, or a pair of inputs of bf16, of all panels of a strip.
  const int64_t steps = w.layout.format == WeightFormat::f32 ? inputs : (inputs + 1) / 2;
  const int64_t strip = panel / 4 * 4;
  const int64_t width = std::min<int64_t>(4, panels - strip);
  // Chunks of outputs follow each other, those of inputs lie within a strip.
  const int64_t panels_before =
      w.layout.k_chunks > 1 ? strip * w.layout.k_chunks + chunk * width : chunk * panels + strip;
  const auto lane_of_step = [&](int64_t step) {
    return (panels_before * steps + step * width + panel - strip) * 16 + lane;
  };
  if (w.layout.format == WeightFormat::f32)
    return reinterpret_cast<const float*>(w.bytes.data())[lane_of_step(input)];
  return to_float(reinterpret_cast<const bf16*>(w.bytes.data())[lane_of_step(input / 2) * 2 + input % 2]);
}

void expect_packed(const TestWeights& w, const FileMatrix& source, int half) {
  const WeightLayout& layout = w.layout;
  const int64_t pair = layout.fused_pair ? 2 : 1;
  const int64_t inputs = layout.k / layout.k_chunks;
  const int64_t outputs = layout.n / layout.n_chunks;
  const int64_t padded_inputs = layout.format == WeightFormat::bf16 ? (inputs + 1) / 2 * 2 : inputs;
  int64_t wrong = 0;
  for (int64_t chunk = 0; chunk < layout.n_chunks * layout.k_chunks; ++chunk) {
    const int64_t first_row = layout.n_chunks > 1 ? chunk * outputs : 0;
    const int64_t first_column = layout.n_chunks > 1 ? 0 : chunk * inputs;
    for (int64_t o = 0; o < (outputs + 15) / 16 * 16; ++o) {
      for (int64_t i = 0; i < padded_inputs; ++i) {
        const bool inside = o < outputs && i < inputs;
        const float expected = inside
                                   ? rounded_to(element_dtype(layout.format),
                                                source.value((first_row + o) * layout.k + first_column + i))
                                   : 0.0F;
        const float found = packed_value(w, chunk, o / 16 * pair + half, o % 16, i);
        wrong += same_bits(found, expected) ? 0 : 1;
      }
    }
  }
  EXPECT_EQ(wrong, 0);
}

int64_t pack_all(const FileMatrix& source, const TestWeights& target, int half) {
  int64_t nans = 0;
  for (int64_t chunk = 0; chunk < target.layout.n_chunks * target.layout.k_chunks; ++chunk)
    nans += cpu::pack_chunk(source.view(), target.layout, target.bytes.data(), chunk, half);
  return nans;
}

struct Shape {
  int64_t n, k, n_chunks, k_chunks;
};
constexpr Shape kShapes[] = {{1, 1, 1, 1},   {16, 2, 1, 1},   {17, 3, 1, 1},  {48, 64, 1, 1}, {31, 33, 1, 1},
                             {24, 5, 8, 1},  {128, 20, 4, 1}, {72, 17, 2, 1}, {5, 24, 1, 8},  {200, 6, 2, 1},
                             {80, 40, 1, 2}, {40, 66, 1, 2},  {20, 63, 1, 7}, {150, 12, 1, 4}};

TEST(PackedMatrix, EveryElementIsWhereTheLayoutSays) {
  Random random(1);
  for (const Shape& s : kShapes) {
    for (DType from : kSourceTypes) {
      for (DType to : kTargetTypes) {
        SCOPED_TRACE(testing::Message() << s.n << " x " << s.k << " in " << s.n_chunks << ", " << s.k_chunks
                                        << " chunks, " << name_of(from) << " to " << name_of(to));
        FileMatrix source(from, s.n, s.k);
        source.fill(random);
        TestWeights packed(WeightLayout{plain_format(to), s.n, s.k, s.n_chunks, s.k_chunks, false});
        EXPECT_EQ(pack_all(source, packed, 0), 0);
        expect_packed(packed, source, 0);
      }
    }
  }
}

TEST(PackedMatrix, GateAndUpAlternate) {
  Random random(2);
  for (const Shape& s : kShapes) {
    if (s.k_chunks > 1) continue;
    for (DType to : kTargetTypes) {
      FileMatrix gate(DType::bf16, s.n, s.k);
      FileMatrix up(DType::f16, s.n, s.k);
      gate.fill(random);
      up.fill(random);
      TestWeights packed(WeightLayout{plain_format(to), s.n, s.k, s.n_chunks, 1, true});
      pack_all(up, packed, 1);
      pack_all(gate, packed, 0);
      expect_packed(packed, gate, 0);
      expect_packed(packed, up, 1);
    }
  }
}

TEST(PackedMatrix, ChunksArePackedInAnyOrder) {
  Random random(3);
  FileMatrix source(DType::bf16, 40, 66);
  source.fill(random);
  const WeightLayout layout{WeightFormat::bf16, 40, 66, 1, 6, false};
  const TestWeights forward(layout);
  const TestWeights backward(layout);
  pack_all(source, forward, 0);
  for (int64_t chunk = 5; chunk >= 0; --chunk)
    cpu::pack_chunk(source.view(), layout, backward.bytes.data(), chunk);
  EXPECT_EQ(
      std::memcmp(forward.bytes.data(), backward.bytes.data(), static_cast<size_t>(forward.layout.bytes())),
      0);
}

TEST(PackedMatrix, CountsNans) {
  Random random(4);
  for (DType from : kSourceTypes) {
    for (DType to : kTargetTypes) {
      FileMatrix source(from, 20, 24);
      source.fill(random);
      const bool wide = from == DType::f32;
      const uint32_t infinity = from == DType::f16 ? 0x7C00 : 0x7F80;
      source.set_bits(0, wide ? kThinNan : infinity + 1);               // chunk 0
      source.set_bits(24 * 19 + 5, wide ? 0xFFFFFFFF : 0xFFFF);         // chunk 0, last row
      source.set_bits(24 * 3 + 23, wide ? 0x7FC00000 : infinity | 64);  // chunk 3
      source.set_bits(24 * 3 + 6, wide ? 0x7F800000 : infinity);        // chunk 1, not a NaN
      const TestWeights packed(WeightLayout{plain_format(to), 20, 24, 1, 4, false});
      int64_t found[4];
      for (int64_t c = 0; c < 4; ++c)
        found[c] = cpu::pack_chunk(source.view(), packed.layout, packed.bytes.data(), c);
      EXPECT_THAT(found, testing::ElementsAre(2, 0, 0, 1)) << name_of(from) << " to " << name_of(to);
      expect_packed(packed, source, 0);
    }
  }
}

// That a slice has the same steps as a matrix that was packed by itself.
void expect_same_steps(const WeightMatrix& slice, const TestWeights& expected) {
  const cpu::PackedLayout& layout = expected.layout;
  const cpu::PackedLayout sliced(slice.layout);
  ASSERT_EQ(slice.layout.n, layout.n);
  ASSERT_EQ(slice.layout.k, layout.k);
  ASSERT_EQ(sliced.bytes(), layout.bytes());
  for (int64_t chunk = 0; chunk < layout.n_chunks * layout.k_chunks; ++chunk) {
    for (int64_t panel = 0; panel < layout.panels_per_chunk(); ++panel) {
      for (int64_t step = 0; step < layout.chunk_k_words(); ++step) {
        const auto at = [&](const cpu::PackedLayout& l) {
          return l.panel_offset(chunk, panel) + step * l.word_stride(panel);
        };
        ASSERT_EQ(std::memcmp(slice.data + at(sliced), expected.bytes.data() + at(layout), kPanelWordBytes),
                  0)
            << "chunk " << chunk << ", panel " << panel << ", step " << step;
      }
    }
  }
}

// Chunks [first, first + count) of a matrix in 8, split by outputs or by inputs.
TestWeights pack_part(const ref::Matrix& whole, DType dtype, bool split_n, int64_t first, int64_t count) {
  const int64_t rows = split_n ? whole.rows / 8 : whole.rows,
                columns = split_n ? whole.columns : whole.columns / 8;
  ref::Matrix part(split_n ? count * rows : rows, split_n ? columns : count * columns);
  for (int64_t r = 0; r < part.rows; ++r)
    for (int64_t c = 0; c < part.columns; ++c)
      part.at(r, c) = split_n ? whole.at(first * rows + r, c) : whole.at(r, first * columns + c);
  return pack(part, dtype, split_n ? count : 1, split_n ? 1 : count);
}

TEST(PackedMatrix, SlicesHaveTheStepsOfTheirChunks) {
  Random random(5);
  for (DType dtype : kTargetTypes) {
    for (int64_t n : {19, 150}) {  // one strip, and some of which the last is narrower
      for (bool split_n : {true, false}) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << ", " << n << (split_n ? " outputs" : " inputs"));
        const ref::Matrix whole =
            split_n ? random_matrix(random, 8 * n, 35, dtype) : random_matrix(random, n, 8 * 35, dtype);
        const TestWeights packed = pack(whole, dtype, split_n ? 8 : 1, split_n ? 1 : 8);
        for (int64_t ranks : {1, 2, 4, 8}) {
          const int64_t count = 8 / ranks;
          for (int64_t rank = 0; rank < ranks; ++rank)
            expect_same_steps(slice_chunks(cpu::backend(), packed.view(), rank * count, count),
                              pack_part(whole, dtype, split_n, rank * count, count));
        }
        const WeightMatrix twice =
            slice_chunks(cpu::backend(), slice_chunks(cpu::backend(), packed.view(), 2, 5), 1, 3);
        expect_same_steps(twice, pack_part(whole, dtype, split_n, 3, 3));
      }
    }
  }
}

TEST(PackedMatrix, ASliceOfAPairKeepsBothHalves) {
  Random random(6);
  const ref::Matrix gate = random_matrix(random, 4 * 20, 9, DType::bf16);
  const ref::Matrix up = random_matrix(random, 4 * 20, 9, DType::bf16);
  const TestWeights packed = pack_pair(gate, up, DType::bf16, 4);
  const WeightMatrix slice =
      slice_chunks(cpu::backend(), slice_chunks(cpu::backend(), packed.view(), 1, 3), 1, 1);  // chunk 2
  ref::Matrix gate_part(20, 9);
  ref::Matrix up_part(20, 9);
  std::copy_n(gate.values.begin() + 40 * 9, 20 * 9, gate_part.values.begin());
  std::copy_n(up.values.begin() + 40 * 9, 20 * 9, up_part.values.begin());
  const TestWeights expected = pack_pair(gate_part, up_part, DType::bf16);
  ASSERT_TRUE(slice.layout.fused_pair);
  ASSERT_EQ(cpu::PackedLayout(slice.layout).bytes(), expected.layout.bytes());
  EXPECT_EQ(std::memcmp(slice.data, expected.bytes.data(), static_cast<size_t>(expected.layout.bytes())), 0);
}

}  // namespace
}  // namespace chorale
