// The products of int8 and int4 matrices against the references of the plain ops, which get what the integers
// stand for.
#include "kernels/fixed_point.h"
#include "kernels/matmul.h"
#include "kernels/ref/expert_matmul.h"
#include "kernels/ref/matmul.h"
#include "unit/kernels/quantized.h"

namespace chorale {
namespace {

class QuantizedMatmulTest : public QuantizedTest {};
INSTANTIATE_TEST_SUITE_P(All, QuantizedMatmulTest, testing::ValuesIn(all_quantized_variants()),
                         name_of_quantized_variant);

TestWeights quantized_weights(const ref::Matrix& source, const WeightLayout& layout) {
  TestWeights packed(layout);
  pack_half(source, packed, 0);
  return packed;
}

// A group's integer is exact; it is rounded three times before it is added, and then once for each group
// after it. What stands for x and for a weight is rounded once each.
double relative_error(const WeightLayout& layout) {
  return kFloatRoundoff * static_cast<double>(layout.groups_per_chunk() + 6);
}

ref::Dense<double> dot_tolerance(const ref::Matrix& x, const Unpacked& weight, const WeightLayout& layout) {
  ref::Dense<double> tolerance = ref::matmul(absolute(x), weight.magnitudes);
  for (double& t : tolerance.values) t = t * relative_error(layout) + 1e-30;
  return tolerance;
}

TEST_P(QuantizedMatmulTest, MatmulAgreesWithTheReference) {
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    const int64_t n_chunks = int64_t{1} << random_int(random, 0, 3);
    const int64_t m = i % 4 == 0 ? random_int(random, 90, 200) : random_int(random, 1, 20);
    const int64_t n = n_chunks * random_int(random, 1, 150 / n_chunks), k = random_int(random, 1, 300);
    SCOPED_TRACE(testing::Message() << m << ", " << n << " in " << n_chunks << ", " << k);
    const WeightLayout layout = quantized_layout(format(), n, k, n_chunks);
    const TestWeights weight = quantized_weights(random_matrix(random, n, k, DType::f32), layout);
    const ref::Matrix x = random_matrix(random, m, k, dtype());
    const TestTensor input(dtype(), x);
    const ref::Matrix seen = dequantized(x, layout);
    const Unpacked unpacked = unpack(weight);
    for (const Stream& stream : all_streams()) {
      const TestTensor rows = quantized(stream, input, layout);
      const TestTensor out(DType::f32, m, n);
      const MatmulTarget target{weight.view(), {}, out};
      matmul(stream, rows, {&target, 1});
      expect_within(out.values(), ref::matmul(seen, unpacked.values), dot_tolerance(seen, unpacked, layout));
    }
  }
}

TEST_P(QuantizedMatmulTest, GatedMatmulAgreesWithTheReference) {
  Random random(2);
  for (int i = 0; i < 15; ++i) {
    const int64_t num_experts = random_int(random, 1, 6);
    const int64_t n_chunks = int64_t{1} << random_int(random, 0, 2);
    const int64_t n = n_chunks * random_int(random, 1, 40), k = random_int(random, 1, 200);
    const WeightLayout layout = quantized_layout(format(), n, k, n_chunks, 1, true);
    TestExperts experts;
    std::vector<ref::Matrix> gate, up, gate_magnitudes, up_magnitudes;
    for (int64_t e = 0; e < num_experts; ++e) {
      TestWeights pair(layout);
      pack_half(random_matrix(random, n, k, DType::f32, 0.5F), pair, 0);
      pack_half(random_matrix(random, n, k, DType::f32, 0.5F), pair, 1);
      gate.push_back(unpack(pair, 0).values);
      up.push_back(unpack(pair, 1).values);
      gate_magnitudes.push_back(unpack(pair, 0).magnitudes);
      up_magnitudes.push_back(unpack(pair, 1).magnitudes);
      experts.add(std::move(pair));
    }
    const int64_t tokens = random_int(random, 1, 20);
    const ref::Matrix x = random_matrix(random, tokens, k, dtype());
    const ref::Matrix seen = dequantized(x, layout);
    const auto rows =
        random_rows(random, tokens, random_int(random, 1, num_experts), first_experts(num_experts));
    const ref::Dense<double> expected = ref::gated_matmul(seen, gate, up, rows);
    // As in gated_matmul_test.cpp.
    ref::Dense<double> tolerance(expected.rows, expected.columns);
    for (int64_t r = 0; r < expected.rows; ++r) {
      const auto e = static_cast<size_t>(rows[static_cast<size_t>(r)].expert);
      const ref::Matrix input = row_of(seen, rows[static_cast<size_t>(r)].token);
      const ref::Dense<double> g = ref::matmul(input, gate[e]), u = ref::matmul(input, up[e]);
      const ref::Dense<double> g_magnitude = ref::matmul(absolute(input), gate_magnitudes[e]);
      const ref::Dense<double> u_magnitude = ref::matmul(absolute(input), up_magnitudes[e]);
      for (int64_t c = 0; c < expected.columns; ++c) {
        tolerance.at(r, c) =
            relative_error(layout) * (1.1 * g_magnitude.at(0, c) * std::fabs(u.at(0, c)) +
                                      std::fabs(g.at(0, c)) * u_magnitude.at(0, c)) +
            std::fabs(expected.at(r, c)) * (kExpError + 4 * kFloatRoundoff + roundoff_of(dtype())) + 1e-30;
      }
    }
    const TestTensor input(dtype(), x);
    for (const Stream& stream : all_streams()) {
      const TestTensor out(dtype(), expected.rows, n);
      gated_matmul(stream, quantized(stream, input, layout), experts.view(),
                   TestRows(rows, num_experts).view(), out);
      expect_within(out.values(), expected, tolerance);
    }
  }
}

TEST_P(QuantizedMatmulTest, OrderFreeMatmulAgreesWithTheReference) {
  Random random(3);
  for (int i = 0; i < 15; ++i) {
    const int64_t num_experts = random_int(random, 1, 5);
    const int64_t k_chunks = int64_t{1} << random_int(random, 0, 3);
    const int64_t n = random_int(random, 1, 150), k = k_chunks * random_int(random, 1, 130);
    const WeightLayout layout = quantized_layout(format(), n, k, 1, k_chunks);
    TestExperts experts;
    std::vector<Unpacked> unpacked;
    std::vector<ref::Matrix> down;
    for (int64_t e = 0; e < num_experts; ++e) {
      TestWeights w = quantized_weights(random_matrix(random, n, k, DType::f32, 0.3F), layout);
      unpacked.push_back(unpack(w));
      down.push_back(unpacked.back().values);
      experts.add(std::move(w));
    }
    const int64_t tokens = random_int(random, 1, 60);
    const auto rows =
        random_rows(random, tokens, random_int(random, 1, num_experts), first_experts(num_experts));
    const ref::Matrix x = random_matrix(random, static_cast<int64_t>(rows.size()), k, dtype());
    const ref::Matrix seen = dequantized(x, layout);
    ref::Dense<int64_t> expected(tokens, n + 1);
    ref::order_free_matmul(seen, down, k_chunks, rows, expected);
    // In units of fixed point; float32 rounds the product with the gate weight once more, and each chunk is
    // rounded to a unit.
    ref::Dense<double> tolerance(tokens, n);
    for (int64_t r = 0; r < x.rows; ++r) {
      const ref::ExpertRow& row = rows[static_cast<size_t>(r)];
      const ref::Dense<double> magnitude =
          ref::matmul(absolute(row_of(seen, r)), unpacked[static_cast<size_t>(row.expert)].magnitudes);
      for (int64_t c = 0; c < n; ++c)
        tolerance.at(row.token, c) += std::fabs(row.weight) * magnitude.at(0, c) *
                                          (relative_error(layout) + 2 * kFloatRoundoff) * 0x1p36 +
                                      static_cast<double>(k_chunks);
    }
    const TestTensor input(dtype(), x);
    for (const Stream& stream : all_streams()) {
      const TestTensor sums(DType::i64, tokens, n + 1);
      clear_sums(stream, sums);
      order_free_matmul(stream, quantized(stream, input, layout), experts.view(),
                        TestRows(rows, num_experts).view(), sums);
      int64_t wrong = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        EXPECT_EQ(sums->row<int64_t>(t)[n], 0);
        for (int64_t c = 0; c < n; ++c)
          wrong += std::fabs(static_cast<double>(sums->row<int64_t>(t)[c] - expected.at(t, c))) <=
                           tolerance.at(t, c)
                       ? 0
                       : 1;
      }
      EXPECT_EQ(wrong, 0);
    }
  }
}

TEST_P(QuantizedMatmulTest, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(4);
  const WeightLayout layout = quantized_layout(format(), 130, 270);
  const TestWeights weight = quantized_weights(random_matrix(random, 130, 270, DType::f32), layout);
  const ref::Matrix x = random_matrix(random, 150, 270, dtype());
  const TestTensor input(dtype(), x);
  const TestTensor whole(DType::f32, 150, 130);
  const MatmulTarget target{weight.view(), {}, whole};
  matmul(all_streams()[1], quantized(all_streams()[1], input, layout), {&target, 1});
  for (int64_t first = 0; first < 150;) {  // the rows again, in groups of 1 to 13, beside a row of NaN
    const int64_t count = std::min(random_int(random, 1, 13), 150 - first);
    ref::Matrix group(count + 1, 270);
    std::fill(group.values.begin(), group.values.end(), std::nanf(""));
    std::copy_n(x.values.begin() + first * 270, count * 270, group.values.begin());
    const TestTensor part(dtype(), group);
    const TestTensor out(DType::f32, count + 1, 130);
    const MatmulTarget part_target{weight.view(), {}, out};
    matmul(stream(), quantized(stream(), part, layout), {&part_target, 1});
    for (int64_t r = 0; r < count; ++r) expect_same_row(out, r, whole, first + r);
    for (const float value : row_of(out.values(), count).values) EXPECT_TRUE(std::isnan(value));
    first += count;
  }
}

// Ranks quantize their own columns of the inputs, and hold ranges of the chunks.
TEST_P(QuantizedMatmulTest, SlicesOfChunksGiveTheSameBits) {
  Random random(5);
  for (int64_t chunk_k : {96, 16, 21}) {
    const int64_t k = 8 * chunk_k, n = 150;  // three strips, the last one narrower
    const WeightLayout layout = quantized_layout(format(), n, k, 1, 8);
    TestExperts experts;
    experts.add(quantized_weights(random_matrix(random, n, k, DType::f32), layout));
    const ref::Matrix x = random_matrix(random, 9, k, dtype());
    const TestTensor input(dtype(), x);
    const TestTensor whole(DType::i64, 9, n + 1);
    order_free_matmul(stream(), quantized(stream(), input, layout), experts.view(), {}, whole,
                      SumMode::assign);
    for (int64_t ranks : {2, 4, 8}) {
      ref::Dense<int64_t> reduced(9, n + 1);
      for (int64_t rank = 0; rank < ranks; ++rank) {
        std::vector<const std::byte*> storage;
        const ExpertMatrices slice = experts.slice(rank * 8 / ranks, 8 / ranks, storage);
        const int64_t columns = 8 / ranks * chunk_k;
        const TestTensor part(dtype(), columns_of(x, rank * columns, columns));
        const TestTensor own(DType::i64, 9, n + 1);
        order_free_matmul(all_streams()[1], quantized(all_streams()[1], part, slice.layout), slice, {}, own,
                          SumMode::assign);
        const ref::Dense<int64_t> values = to_dense<int64_t>(own);
        for (size_t i = 0; i < values.values.size(); ++i) reduced.values[i] += values.values[i];
      }
      EXPECT_EQ(reduced.values, to_dense<int64_t>(whole).values) << ranks << " ranks, chunks of " << chunk_k;
    }
  }
  const WeightLayout layout = quantized_layout(format(), 8 * 21, 100, 8);
  const TestWeights weight = quantized_weights(random_matrix(random, 8 * 21, 100, DType::f32), layout);
  const TestTensor x(dtype(), random_matrix(random, 7, 100, dtype()));
  const TestTensor rows = quantized(stream(), x, layout);
  const TestTensor whole(DType::f32, 7, 8 * 21);
  const MatmulTarget target{weight.view(), {}, whole};
  matmul(stream(), rows, {&target, 1});
  for (int64_t rank = 0; rank < 4; ++rank) {
    const TestTensor out(DType::f32, 7, 42);
    const MatmulTarget part{slice_chunks(cpu::backend(), weight.view(), 2 * rank, 2), {}, out};
    matmul(all_streams()[1], rows, {&part, 1});
    expect_same_host_bits(out.host(), whole->middle_columns(rank * 42, 42));
  }
}

// The integers of all instruction sets are the same; only floating-point sums may differ.
TEST(QuantizedMatmul, InstructionSetsAgreeWhereEverySumIsExact) {
  Random random(6);
  for (WeightFormat format : {WeightFormat::int8, WeightFormat::int4}) {
    const WeightLayout layout = quantized_layout(format, 50, 64);  // one group
    ref::Matrix source(50, 64), x(11, 64);
    for (float& w : source.values) w = static_cast<float>(random_int(random, -7, 8));
    for (float& v : x.values) v = static_cast<float>(random_int(random, -127, 127));
    for (int64_t n = 0; n < 50; ++n) source.at(n, 0) = -7, source.at(n, 1) = 8;
    for (int64_t m = 0; m < 11; ++m) x.at(m, 0) = 127;
    const TestWeights weight = quantized_weights(source, layout);
    const TestTensor input(DType::f32, x);
    std::vector<float> first;
    for (InstructionSet isa : available_instruction_sets()) {
      const Stream stream = streams(isa)[0];
      const TestTensor out(DType::f32, 11, 50);
      const MatmulTarget target{weight.view(), {}, out};
      matmul(stream, quantized(stream, input, layout), {&target, 1});
      if (first.empty()) first = out.values().values;
      EXPECT_EQ(out.values().values, first) << name_of(isa);
    }
  }
}

}  // namespace
}  // namespace chorale
