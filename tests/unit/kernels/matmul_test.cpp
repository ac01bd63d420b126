#include "kernels/matmul.h"

#include "kernels/ref/matmul.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

using MatmulTest = BackendTest;
INSTANTIATE_TEST_SUITE_P(All, MatmulTest, testing::ValuesIn(all_variants()), name_of_variant);

// K products are rounded into a sum one after the other, each time off by at most the unit roundoff of a
// partial sum, which is at most the sum of magnitudes (Higham, Accuracy and Stability, 3.1); a bias is one
// more rounding. Instruction sets without fused multiply-add round each float32 product too: one more.
ref::Dense<double> matmul_tolerance(const ref::Matrix& x, const ref::Matrix& weight,
                                    const ref::Matrix& bias) {
  ref::Dense<double> tolerance = ref::matmul(absolute(x), absolute(weight), absolute(bias));
  for (double& t : tolerance.values) t *= kFloatRoundoff * static_cast<double>(x.columns + 2);
  return tolerance;
}

struct Shape {
  int64_t m, k, n;
};

void check_against_reference(const Stream& stream, DType dtype, const Shape& s, Random& random,
                             int64_t n_chunks, bool with_bias) {
  SCOPED_TRACE(testing::Message() << "M " << s.m << ", K " << s.k << ", N " << s.n << " in " << n_chunks
                                  << " chunks, " << description_of(stream));
  const ref::Matrix x = random_matrix(random, s.m, s.k, dtype);
  const ref::Matrix weight = random_matrix(random, s.n, s.k, dtype);
  const ref::Matrix bias = with_bias ? random_matrix(random, 1, s.n, DType::f32) : ref::Matrix();
  const TestTensor input(dtype, x);
  const TestTensor bias_tensor(DType::f32, bias);
  const TestWeights packed = pack(weight, dtype, n_chunks);
  const TestTensor out(DType::f32, s.m, s.n);
  const MatmulTarget target{packed.view(), with_bias ? Tensor(bias_tensor) : Tensor(), out};
  matmul(stream, input, {&target, 1});
  expect_within(out.values(), ref::matmul(x, weight, bias), matmul_tolerance(x, weight, bias));
}

TEST_P(MatmulTest, AgreesWithTheReference) {
  constexpr Shape kShapes[] = {{1, 1, 1},    {1, 2, 16},   {2, 3, 17},   {3, 64, 48},  {4, 9, 33},
                               {5, 7, 31},   {6, 33, 64},  {7, 128, 65}, {11, 1, 100}, {13, 96, 80},
                               {97, 50, 33}, {97, 31, 96}, {193, 16, 20}};
  Random random(1);
  for (const Shape& s : kShapes)
    for (const Stream& stream : all_streams()) {
      check_against_reference(stream, dtype(), s, random, 1, false);
      check_against_reference(stream, dtype(), s, random, 1, true);
    }
}

TEST_P(MatmulTest, AgreesWithTheReferenceOnRandomShapes) {
  Random random(2);
  for (int i = 0; i < 30; ++i) {
    const int64_t n_chunks = int64_t{1} << random_int(random, 0, 3);
    const Shape s{random_int(random, 1, 20), random_int(random, 1, 150),
                  n_chunks * random_int(random, 1, 150 / n_chunks)};
    for (const Stream& stream : all_streams())
      check_against_reference(stream, dtype(), s, random, n_chunks, random_int(random, 0, 1) == 1);
  }
}

TEST_P(MatmulTest, SeveralTargetsAreAsOneByOne) {
  Random random(3);
  const int64_t k = 40;
  const TestTensor x(dtype(), random_matrix(random, 99, k, dtype()));
  const TestTensor bias(DType::f32, random_matrix(random, 1, 33, DType::f32));
  const TestWeights a = pack(random_matrix(random, 33, k, dtype()), dtype());
  const TestWeights b = pack(random_matrix(random, 160, k, dtype()), dtype(), 4);
  const TestWeights c = pack(random_matrix(random, 1, k, dtype()), dtype());
  const TestWeights d = pack(random_matrix(random, 16, k, dtype()), dtype());
  for (const Stream& stream : all_streams()) {
    std::vector<TestTensor> together;
    std::vector<TestTensor> alone;
    std::vector<MatmulTarget> targets;
    for (const TestWeights* w : {&a, &b, &c, &d}) {
      together.emplace_back(DType::f32, 99, w->layout.n);
      alone.emplace_back(DType::f32, 99, w->layout.n);
      targets.push_back({w->view(), w == &a ? Tensor(bias) : Tensor(), together.back()});
    }
    matmul(stream, x, targets);
    for (size_t i = 0; i < targets.size(); ++i) {
      MatmulTarget target = targets[i];
      target.out = alone[i];
      matmul(this->stream(), x, {&target, 1});
      expect_same_bits(together[i], alone[i]);
    }
  }
}

TEST_P(MatmulTest, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(4);
  for (const Shape& s : {Shape{97, 77, 83}, Shape{14, 200, 130}, Shape{7, 33, 16}}) {
    const ref::Matrix x = random_matrix(random, s.m, s.k, dtype());
    const TestWeights weight = pack(random_matrix(random, s.n, s.k, dtype()), dtype());
    const TestTensor whole_input(dtype(), x);
    const TestTensor whole(DType::f32, s.m, s.n);
    const MatmulTarget target{weight.view(), {}, whole};
    matmul(all_streams()[1], whole_input, {&target, 1});
    for (int64_t first = 0; first < s.m;) {  // the rows again, in groups of 1 to 9, with NaN rows among them
      const int64_t count = std::min(random_int(random, 1, 9), s.m - first);
      ref::Matrix group(count + 1, s.k);
      std::fill(group.values.begin(), group.values.end(), std::nanf(""));
      const int64_t nan_row = random_int(random, 0, count);
      for (int64_t r = 0; r < count; ++r)
        std::copy_n(x.values.begin() + (first + r) * s.k, s.k,
                    group.values.begin() + (r < nan_row ? r : r + 1) * s.k);
      const TestTensor input(dtype(), group);
      const TestTensor out(DType::f32, count + 1, s.n);
      const MatmulTarget part{weight.view(), {}, out};
      matmul(stream(), input, {&part, 1});
      for (int64_t r = 0; r < count; ++r) expect_same_row(out, r < nan_row ? r : r + 1, whole, first + r);
      first += count;
    }
  }
}

TEST_P(MatmulTest, SlicesOfOutputChunksGiveTheSameColumns) {
  Random random(5);
  const int64_t chunk_n = 21;
  const int64_t m = 13;
  const TestTensor x(dtype(), random_matrix(random, m, 45, dtype()));
  const TestWeights weight = pack(random_matrix(random, 8 * chunk_n, 45, dtype()), dtype(), 8);
  const TestTensor whole(DType::f32, m, 8 * chunk_n);
  const MatmulTarget target{weight.view(), {}, whole};
  matmul(stream(), x, {&target, 1});
  for (int64_t ranks : {1, 2, 4, 8}) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t columns = 8 / ranks * chunk_n;
      const TestTensor out(DType::f32, m, columns);
      const MatmulTarget part{
          slice_chunks(current_backend(), weight.view(), rank * 8 / ranks, 8 / ranks), {}, out};
      matmul(all_streams()[1], x, {&part, 1});
      expect_same_host_bits(out.host(), whole->middle_columns(rank * columns, columns));
    }
  }
}

TEST_P(MatmulTest, NoRowsIsNoWork) {
  Random random(6);
  const TestWeights weight = pack(random_matrix(random, 5, 4, dtype()), dtype());
  const TestTensor x(dtype(), 0, 4);
  const TestTensor out(DType::f32, 0, 5);
  const MatmulTarget target{weight.view(), {}, out};
  for (const Stream& stream : all_streams()) matmul(stream, x, {&target, 1});
}

}  // namespace
}  // namespace chorale
