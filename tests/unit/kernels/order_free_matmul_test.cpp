#include <limits>

#include "kernels/fixed_point.h"
#include "kernels/ref/fixed_point.h"
#include "kernels/ref/matmul.h"
#include "unit/kernels/expert_rows.h"

namespace chorale {
namespace {

using OrderFreeMatmulTest = BackendTest;
INSTANTIATE_TEST_SUITE_P(All, OrderFreeMatmulTest, testing::ValuesIn(all_variants()), name_of_variant);

constexpr double kFixedUnits = 0x1p36;

struct Experts {
  std::vector<ref::Matrix> down;
  TestExperts packed;

  Experts(Random& random, int64_t count, int64_t n, int64_t k, DType dtype, int64_t k_chunks) {
    for (int64_t e = 0; e < count; ++e) {
      down.push_back(random_matrix(random, n, k, dtype));
      packed.add(pack(down.back(), dtype, 1, k_chunks));
    }
  }
  int64_t n() const { return down[0].rows; }
};

TestTensor cleared_sums(int64_t tokens, int64_t n) {
  TestTensor sums(DType::i64, tokens, n + 1);
  clear_sums(streams(InstructionSet::portable)[0], sums);
  return sums;
}

// In units: every float32 partial sum is off by the error of its dot product (see matmul_test.cpp; summed
// over chunks, the magnitudes are those of the whole row), and op and reference each round it, the op to
// float32, to the product with the gate weight, and to a unit.
ref::Dense<double> sums_tolerance(const ref::Matrix& x, const Experts& experts, int64_t k_chunks,
                                  const std::vector<ref::ExpertRow>& rows, int64_t tokens) {
  ref::Dense<double> tolerance(tokens, experts.n());
  for (int64_t r = 0; r < x.rows; ++r) {
    const ref::ExpertRow& row = rows[static_cast<size_t>(r)];
    const ref::Dense<double> magnitude =
        ref::matmul(absolute(row_of(x, r)), absolute(experts.down[static_cast<size_t>(row.expert)]));
    const double relative = kFloatRoundoff * (static_cast<double>(x.columns) / k_chunks + 4);
    for (int64_t n = 0; n < experts.n(); ++n)
      tolerance.at(row.token, n) +=
          std::fabs(row.weight) * magnitude.at(0, n) * relative * kFixedUnits + static_cast<double>(k_chunks);
  }
  return tolerance;
}

void check(const Stream& stream, DType dtype, const ref::Matrix& x, const Experts& experts, int64_t k_chunks,
           const std::vector<ref::ExpertRow>& rows, int64_t tokens, const ExpertRows& view) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << rows.size() << " rows, K " << x.columns
                                  << " in " << k_chunks << " chunks, N " << experts.n() << ", "
                                  << experts.down.size() << " experts");
  const TestTensor input(dtype, x);
  const TestTensor sums = cleared_sums(tokens, experts.n());
  order_free_matmul(stream, input, experts.packed.view(), view, sums);
  ref::Dense<int64_t> expected(tokens, experts.n() + 1);
  ref::order_free_matmul(x, experts.down, k_chunks, rows, expected);
  const ref::Dense<double> tolerance = sums_tolerance(x, experts, k_chunks, rows, tokens);
  int64_t wrong = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t n = 0; n < experts.n(); ++n) {
      const auto error = static_cast<double>(sums->row<int64_t>(t)[n] - expected.at(t, n));
      wrong += std::fabs(error) <= tolerance.at(t, n) ? 0 : 1;
    }
    EXPECT_EQ(sums->row<int64_t>(t)[experts.n()], 0);
  }
  EXPECT_EQ(wrong, 0);
}

TEST_P(OrderFreeMatmulTest, OneExpertTakesAllRows) {
  Random random(1);
  struct Shape {
    int64_t rows, k, n, k_chunks;
  };
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{1, 64, 48, 8}, Shape{3, 7, 17, 1}, Shape{5, 33, 31, 3},
                         Shape{8, 24, 81, 2}, Shape{97, 40, 33, 4}, Shape{13, 129, 16, 1}}) {
    const Experts experts(random, 1, s.n, s.k, dtype(), s.k_chunks);
    const ref::Matrix x = random_matrix(random, s.rows, s.k, dtype());
    const auto rows = dense_rows(s.rows);
    for (const Stream& stream : all_streams()) {
      check(stream, dtype(), x, experts, s.k_chunks, rows, s.rows, {});
      check(stream, dtype(), x, experts, s.k_chunks, rows, s.rows, TestRows(rows, 1).view());
    }
  }
}

TEST_P(OrderFreeMatmulTest, RoutedRowsAgreeWithTheReference) {
  Random random(2);
  for (int i = 0; i < 15; ++i) {
    const int64_t num_experts = random_int(random, 1, 12);
    const int64_t k_chunks = int64_t{1} << random_int(random, 0, 3);
    const int64_t k = k_chunks * random_int(random, 1, 80 / k_chunks);
    const Experts experts(random, num_experts, random_int(random, 1, 90), k, dtype(), k_chunks);
    const int64_t tokens = random_int(random, 1, 20);
    const auto rows =
        random_rows(random, tokens, random_int(random, 1, num_experts), first_experts(num_experts));
    const ref::Matrix x = random_matrix(random, static_cast<int64_t>(rows.size()), k, dtype());
    for (const Stream& stream : all_streams())
      check(stream, dtype(), x, experts, k_chunks, rows, tokens, TestRows(rows, num_experts).view());
  }
}

TEST_P(OrderFreeMatmulTest, MostExpertsAreEmpty) {
  Random random(3);
  const Experts experts(random, 128, 35, 12, dtype(), 4);
  const auto rows = random_rows(random, 6, 2, {0, 64, 65, 127});
  const ref::Matrix x = random_matrix(random, 12, 12, dtype());
  for (const Stream& stream : all_streams())
    check(stream, dtype(), x, experts, 4, rows, 6, TestRows(rows, 128).view());
}

// Powers of two make every product, sum and rounding exact, so equality with the reference: what is kept,
// rounded and clamped does not hide behind a tolerance.
TEST_P(OrderFreeMatmulTest, RoundsToNearestEvenAndSaturates) {
  const std::vector<float> factors = {1.0F,      0x1p-36F, 0x1p-37F,      0x1.8p-36F, 0x1.4p-35F, 0x1p-60F,
                                      0x1p17F,   0x1p18F,  0x1.01p18F,    0x1p19F,    0x1p100F,   0x1.fep127F,
                                      0x1.8p17F, 0x1p-36F, 0x1.000002p0F, 0.0F,       0x1p-126F,  3.0F};
  const auto n = static_cast<int64_t>(factors.size());
  ref::Matrix weight(n, 4);  // two chunks with one term each
  for (int64_t i = 0; i < n; ++i) {
    weight.at(i, 0) = rounded_to(dtype(), factors[static_cast<size_t>(i)]);
    weight.at(i, 3) = rounded_to(dtype(), factors[static_cast<size_t>(n - 1 - i)]);
  }
  ref::Matrix x(2, 4);
  x.values = {1, 0, 0, 1, -1, 0, 0, 1};
  const TestTensor input(dtype(), x);
  TestExperts experts;
  experts.add(pack(weight, dtype(), 1, 2));
  for (const Stream& stream : all_streams()) {
    // With the last four, a product is in range though one factor times the scale of fixed point is not.
    for (float gate : {1.0F, 0.5F, -2.0F, 0.0F, 0x1p100F, -0x1p91F, 0x1p-100F, 0x1p-140F}) {
      const std::vector<ref::ExpertRow> rows = {{0, 0, gate}, {1, 0, gate}};
      const TestTensor sums = cleared_sums(2, n);
      order_free_matmul(stream, input, experts.view(), TestRows(rows, 1).view(), sums);
      ref::Dense<int64_t> expected(2, n + 1);
      ref::order_free_matmul(x, std::span(&weight, 1), 2, rows, expected);
      EXPECT_EQ(to_dense<int64_t>(sums).values, expected.values) << gate;
    }
  }
}

TEST_P(OrderFreeMatmulTest, ATokenDoesNotDependOnOtherTokensOrThreads) {
  Random random(4);
  const Experts experts(random, 5, 70, 48, dtype(), 4);
  const auto rows = random_rows(random, 29, 2, {0, 1, 2, 4});
  const ref::Matrix x = random_matrix(random, 58, 48, dtype());
  const TestTensor input(dtype(), x);
  const TestTensor whole = cleared_sums(29, 70);
  order_free_matmul(all_streams()[1], input, experts.packed.view(), TestRows(rows, 5).view(), whole);
  for (int64_t t = 0; t < 29; ++t) {
    std::vector<ref::ExpertRow> own;
    ref::Matrix own_x(2, 48);
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].token != t) continue;
      std::copy_n(x.values.begin() + static_cast<int64_t>(r) * 48, 48,
                  own_x.values.begin() + static_cast<int64_t>(own.size()) * 48);
      own.push_back({0, rows[r].expert, rows[r].weight});
    }
    const TestTensor own_input(dtype(), own_x);
    const TestTensor alone = cleared_sums(1, 70);
    order_free_matmul(stream(), own_input, experts.packed.view(), TestRows(own, 5).view(), alone);
    expect_same_row(alone, 0, whole, t);
  }
}

// Ranks hold ranges of the inputs; their sums are added in any order.
TEST_P(OrderFreeMatmulTest, SlicesOfInputChunksAddUpToTheSameSums) {
  constexpr int64_t kOutputs = 150;  // three strips, the last one narrower
  Random random(5);
  for (int64_t chunk_k : {10, 7}) {  // an odd chunk ends in mid-pair
    const Experts experts(random, 3, kOutputs, 8 * chunk_k, dtype(), 8);
    const auto rows = random_rows(random, 9, 2, first_experts(3));
    const TestRows view(rows, 3);
    const ref::Matrix x = random_matrix(random, 18, 8 * chunk_k, dtype());
    const TestTensor input(dtype(), x);
    const TestTensor whole = cleared_sums(9, kOutputs);
    order_free_matmul(stream(), input, experts.packed.view(), view.view(), whole);
    for (int64_t ranks : {1, 2, 4, 8}) {
      std::vector<int64_t> order(static_cast<size_t>(ranks));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      const TestTensor together = cleared_sums(9, kOutputs);  // each rank adds to what the others left
      ref::Dense<int64_t> reduced(9, kOutputs + 1);           // the ranks' own sums, added afterwards
      for (int64_t rank : order) {
        const int64_t columns = 8 / ranks * chunk_k;
        const TestTensor part(dtype(), columns_of(x, rank * columns, columns));
        std::vector<const std::byte*> storage;
        const ExpertMatrices slice = experts.packed.slice(rank * 8 / ranks, 8 / ranks, storage);
        order_free_matmul(all_streams()[1], part, slice, view.view(), together);
        const TestTensor own = cleared_sums(9, kOutputs);
        order_free_matmul(stream(), part, slice, view.view(), own);
        const ref::Dense<int64_t> values = to_dense<int64_t>(own);
        for (size_t i = 0; i < values.values.size(); ++i) reduced.values[i] += values.values[i];
      }
      expect_same_bits(together, whole);
      EXPECT_EQ(reduced.values, to_dense<int64_t>(whole).values) << ranks << " ranks, chunks of " << chunk_k;
    }
  }
}

TEST_P(OrderFreeMatmulTest, NonFiniteInputsReachTheirOwnTokenAlone) {
  Random random(6);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const Experts experts(random, 3, 37, 24, dtype(), 4);
  for (float poison : {std::nanf(""), kInf, -kInf}) {
    for (const Stream& stream : all_streams()) {
      const auto rows = random_rows(random, 8, 2, first_experts(3));
      const TestRows view(rows, 3);
      ref::Matrix x = random_matrix(random, 16, 24, dtype());
      const ref::Matrix residual = random_matrix(random, 8, 37, DType::f32);
      const auto run = [&] {
        const TestTensor input(dtype(), x);
        const TestTensor sums = cleared_sums(8, 37);
        TestTensor out(DType::f32, residual);
        order_free_matmul(stream, input, experts.packed.view(), view.view(), sums);
        add_sums(stream, sums, {}, out);
        return out;
      };
      const TestTensor clean = run();
      const int64_t row = random_int(random, 0, 15);
      x.at(row, random_int(random, 0, 23)) = poison;
      const TestTensor out = run();
      for (int64_t t = 0; t < 8; ++t) {
        if (t == rows[static_cast<size_t>(row)].token) {
          for (float value : row_of(out.values(), t).values) EXPECT_TRUE(std::isnan(value));
        } else {
          expect_same_row(out, t, clean, t);
        }
      }
    }
  }
}

TEST_P(OrderFreeMatmulTest, CountsNonFinitePartialSums) {
  const int64_t n = 21;
  ref::Matrix weight(n, 4);
  std::fill(weight.values.begin(), weight.values.end(), 0.5F);
  ref::Matrix x(3, 4);
  std::fill(x.values.begin(), x.values.end(), 1.0F);
  x.at(1, 3) = std::nanf("");                           // one of its two chunks
  x.at(2, 0) = x.at(2, 1) = 0x1.fep127F;                // finite, but too large for float32 in one sum
  std::fill_n(weight.values.begin() + 5 * 4, 2, 4.0F);  // of output 5 alone
  const TestTensor input(dtype(), x);
  TestExperts experts;
  experts.add(pack(weight, dtype(), 1, 2));
  for (const Stream& stream : all_streams()) {
    const TestTensor sums = cleared_sums(3, n);
    order_free_matmul(stream, input, experts.view(), {}, sums);
    order_free_matmul(stream, input, experts.view(), {}, sums);  // counts add up like sums
    ref::Dense<int64_t> expected(3, n + 1);
    for (int i = 0; i < 2; ++i) ref::order_free_matmul(x, std::span(&weight, 1), 2, dense_rows(3), expected);
    EXPECT_EQ(to_dense<int64_t>(sums).values, expected.values);
    EXPECT_EQ(sums->row<int64_t>(0)[n], 0);
    EXPECT_EQ(sums->row<int64_t>(1)[n], 2 * n);
    EXPECT_EQ(sums->row<int64_t>(2)[n], 2);
  }
}

TEST_P(OrderFreeMatmulTest, ANanGateWeightReachesItsTokenAlone) {
  Random random(8);
  const Experts experts(random, 2, 20, 8, dtype(), 2);
  const TestTensor input(dtype(), random_matrix(random, 4, 8, dtype()));
  const TestRows rows({{0, 0, 0.5F}, {1, 0, std::nanf("")}, {1, 1, 0.5F}, {2, 1, 1.0F}}, 2);
  const TestTensor sums = cleared_sums(3, 20);
  order_free_matmul(stream(), input, experts.packed.view(), rows.view(), sums);
  EXPECT_EQ(sums->row<int64_t>(0)[20], 0);
  EXPECT_EQ(sums->row<int64_t>(1)[20], 2 * 20);
  EXPECT_EQ(sums->row<int64_t>(2)[20], 0);
}

TEST_P(OrderFreeMatmulTest, NoTokensIsNoWork) {
  Random random(7);
  const Experts experts(random, 4, 5, 6, dtype(), 1);
  const TestTensor x(dtype(), 0, 6);
  const TestTensor sums(DType::i64, 0, 6);
  const TestRows rows({}, 4);
  for (const Stream& stream : all_streams())
    order_free_matmul(stream, x, experts.packed.view(), rows.view(), sums);
}

}  // namespace
}  // namespace chorale
