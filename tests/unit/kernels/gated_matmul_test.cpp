#include "kernels/ref/matmul.h"
#include "unit/kernels/expert_rows.h"

namespace chorale {
namespace {

using GatedMatmulTest = BackendTest;
INSTANTIATE_TEST_SUITE_P(All, GatedMatmulTest, testing::ValuesIn(all_variants()), name_of_variant);

// Gate and up matrices, plain and packed.
struct Experts {
  std::vector<ref::Matrix> gate, up;
  TestExperts packed;

  Experts(Random& random, int64_t count, int64_t n, int64_t k, DType dtype, int64_t n_chunks = 1) {
    for (int64_t e = 0; e < count; ++e) {
      gate.push_back(random_matrix(random, n, k, dtype, 0.5F));
      up.push_back(random_matrix(random, n, k, dtype, 0.5F));
      packed.add(pack_pair(gate.back(), up.back(), dtype, n_chunks));
    }
  }
};

// gate and up are each off by at most `dot` times their sum of magnitudes G and U (see matmul_test.cpp). silu
// grows at most 1.1 times as fast as its argument, and |silu(g)| <= |g|, so the product is off by dot * (1.1
// * G * |u| + |g| * U), besides the errors of exp and of the sum, quotient and product of silu(g) * u; then
// it is rounded to an activation.
ref::Dense<double> gated_tolerance(const ref::Matrix& x, const Experts& experts,
                                   const std::vector<ref::ExpertRow>& rows, DType dtype,
                                   const ref::Dense<double>& expected) {
  const double dot = kFloatRoundoff * static_cast<double>(x.columns + 1);
  ref::Dense<double> tolerance(expected.rows, expected.columns);
  for (int64_t r = 0; r < expected.rows; ++r) {
    const ref::ExpertRow& row = rows[static_cast<size_t>(r)];
    const auto e = static_cast<size_t>(row.expert);
    const ref::Matrix input = row_of(x, row.token);
    const ref::Dense<double> g = ref::matmul(input, experts.gate[e]);
    const ref::Dense<double> u = ref::matmul(input, experts.up[e]);
    const ref::Dense<double> g_magnitude = ref::matmul(absolute(input), absolute(experts.gate[e]));
    const ref::Dense<double> u_magnitude = ref::matmul(absolute(input), absolute(experts.up[e]));
    for (int64_t i = 0; i < expected.columns; ++i) {
      const double from_dots = dot * (1.1 * g_magnitude.at(0, i) * std::fabs(u.at(0, i)) +
                                      std::fabs(g.at(0, i)) * u_magnitude.at(0, i));
      const double relative = kExpError + 4 * kFloatRoundoff + roundoff_of(dtype);
      tolerance.at(r, i) = from_dots + std::fabs(expected.at(r, i)) * relative + 1e-30;
    }
  }
  return tolerance;
}

void check(const Stream& stream, DType dtype, const ref::Matrix& x, const Experts& experts,
           const std::vector<ref::ExpertRow>& rows, const ExpertRows& view) {
  SCOPED_TRACE(testing::Message() << x.rows << " tokens, " << rows.size() << " rows, K " << x.columns
                                  << ", I " << experts.gate[0].rows << ", " << experts.gate.size()
                                  << " experts, " << description_of(stream));
  const TestTensor input(dtype, x);
  const TestTensor out(dtype, static_cast<int64_t>(rows.size()), experts.gate[0].rows);
  gated_matmul(stream, input, experts.packed.view(), view, out);
  const ref::Dense<double> expected = ref::gated_matmul(x, experts.gate, experts.up, rows);
  expect_within(out.values(), expected, gated_tolerance(x, experts, rows, dtype, expected));
}

TEST_P(GatedMatmulTest, OneExpertTakesAllTokens) {
  Random random(1);
  struct Shape {
    int64_t tokens, k, n;
  };
  for (const Shape& s : {Shape{1, 1, 1}, Shape{1, 64, 48}, Shape{3, 7, 17}, Shape{5, 33, 31},
                         Shape{8, 24, 80}, Shape{97, 20, 33}, Shape{13, 130, 16}}) {
    const Experts experts(random, 1, s.n, s.k, dtype());
    const ref::Matrix x = random_matrix(random, s.tokens, s.k, dtype());
    const std::vector<ref::ExpertRow> rows = dense_rows(s.tokens);
    for (const Stream& stream : all_streams()) {
      check(stream, dtype(), x, experts, rows, {});
      check(stream, dtype(), x, experts, rows, TestRows(rows, 1).view());
    }
  }
}

TEST_P(GatedMatmulTest, RoutedRowsAgreeWithTheReference) {
  Random random(2);
  for (int i = 0; i < 12; ++i) {
    const int64_t num_experts = random_int(random, 1, 12);
    const int64_t n_chunks = int64_t{1} << random_int(random, 0, 2);
    const int64_t k = random_int(random, 1, 70);
    const Experts experts(random, num_experts, n_chunks * random_int(random, 1, 40), k, dtype(), n_chunks);
    const int64_t tokens = random_int(random, 1, 20);
    const ref::Matrix x = random_matrix(random, tokens, k, dtype());
    const auto rows =
        random_rows(random, tokens, random_int(random, 1, num_experts), first_experts(num_experts));
    for (const Stream& stream : all_streams())
      check(stream, dtype(), x, experts, rows, TestRows(rows, num_experts).view());
  }
}

TEST_P(GatedMatmulTest, MostExpertsAreEmpty) {
  Random random(3);
  const Experts experts(random, 128, 19, 11, dtype());
  const ref::Matrix x = random_matrix(random, 6, 11, dtype());
  const auto rows = random_rows(random, 6, 2, {0, 64, 65, 127});
  for (const Stream& stream : all_streams())
    check(stream, dtype(), x, experts, rows, TestRows(rows, 128).view());
}

TEST_P(GatedMatmulTest, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(4);
  const int64_t k = 75;
  const Experts experts(random, 3, 70, k, dtype());
  const ref::Matrix x = random_matrix(random, 23, k, dtype());
  const auto rows = random_rows(random, 23, 2, first_experts(3));
  const TestTensor whole(dtype(), 46, 70);
  const TestTensor input(dtype(), x);
  gated_matmul(all_streams()[1], input, experts.packed.view(), TestRows(rows, 3).view(), whole);
  for (int64_t r = 0; r < 46; ++r) {
    const ref::ExpertRow& row = rows[static_cast<size_t>(r)];
    const TestTensor token(dtype(), row_of(x, row.token));
    const TestTensor alone(dtype(), 1, 70);
    gated_matmul(stream(), token, experts.packed.view(), TestRows({{0, row.expert, row.weight}}, 3).view(),
                 alone);
    expect_same_row(alone, 0, whole, r);
  }
}

TEST_P(GatedMatmulTest, SlicesOfOutputChunksGiveTheSameColumns) {
  Random random(5);
  const int64_t chunk_n = 21;
  const Experts experts(random, 4, 8 * chunk_n, 30, dtype(), 8);
  const TestTensor x(dtype(), random_matrix(random, 9, 30, dtype()));
  const TestRows rows(random_rows(random, 9, 2, {0, 1, 3}), 4);
  const TestTensor whole(dtype(), 18, 8 * chunk_n);
  gated_matmul(stream(), x, experts.packed.view(), rows.view(), whole);
  for (int64_t ranks : {1, 2, 4, 8}) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      std::vector<const std::byte*> storage;
      const int64_t columns = 8 / ranks * chunk_n;
      const TestTensor out(dtype(), 18, columns);
      gated_matmul(all_streams()[1], x, experts.packed.slice(rank * 8 / ranks, 8 / ranks, storage),
                   rows.view(), out);
      expect_same_host_bits(out.host(), whole->middle_columns(rank * columns, columns));
    }
  }
}

TEST_P(GatedMatmulTest, NanReachesItsOwnRowsAlone) {
  Random random(6);
  const Experts experts(random, 3, 37, 20, dtype());
  const auto rows = random_rows(random, 7, 2, first_experts(3));
  const TestRows view(rows, 3);
  ref::Matrix x = random_matrix(random, 7, 20, dtype());
  const TestTensor clean(dtype(), 14, 37);
  const TestTensor clean_input(dtype(), x);
  gated_matmul(stream(), clean_input, experts.packed.view(), view.view(), clean);
  x.at(4, 11) = std::nanf("");
  const TestTensor input(dtype(), x);
  for (const Stream& stream : all_streams()) {
    const TestTensor out(dtype(), 14, 37);
    gated_matmul(stream, input, experts.packed.view(), view.view(), out);
    for (int64_t r = 0; r < 14; ++r) {
      if (rows[static_cast<size_t>(r)].token == 4) {
        for (float value : row_of(out.values(), r).values) EXPECT_TRUE(std::isnan(value));
      } else {
        expect_same_row(out, r, clean, r);
      }
    }
  }
}

TEST_P(GatedMatmulTest, NoTokensIsNoWork) {
  Random random(7);
  const Experts experts(random, 4, 5, 6, dtype());
  const TestTensor x(dtype(), 0, 6);
  const TestTensor out(dtype(), 0, 5);
  const TestRows rows({}, 4);
  for (const Stream& stream : all_streams()) gated_matmul(stream, x, experts.packed.view(), rows.view(), out);
}

}  // namespace
}  // namespace chorale
