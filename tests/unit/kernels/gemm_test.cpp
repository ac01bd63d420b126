#include "kernels/gemm.h"

#include "kernels/gated_activation.h"
#include "kernels/ref/expert_matmul.h"
#include "kernels/ref/gemm.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

class GemmTest : public testing::TestWithParam<InstructionSet> {
 protected:
  std::array<Stream, 3> three_streams() {
    return {Stream(one_, GetParam()), Stream(two_, GetParam()), Stream(three_, GetParam())};
  }

 private:
  ThreadPool one_{1}, two_{2}, three_{3};
};
INSTANTIATE_TEST_SUITE_P(All, GemmTest, testing::ValuesIn(available_instruction_sets()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// A matrix that lies in a wider one of NaN, so that what is read beside it shows.
class AmidNan {
 public:
  explicit AmidNan(const ref::Matrix& values) : around_(DType::f32, values.rows, values.columns + 19) {
    view_ = Tensor(around_->middle_columns(3, values.columns));
    for (int64_t r = 0; r < values.rows; ++r)
      std::copy_n(values.values.begin() + r * values.columns, values.columns, view_.row<float>(r));
  }
  const Tensor& view() const { return view_; }

 private:
  TestTensor around_;
  Tensor view_;
};

struct Product {
  int64_t m, k, n;
  bool a_transposed, b_transposed;
};

// K products, one addition of what was there, and one more rounding each where products are not fused; see
// matmul_test.cpp.
ref::Dense<double> tolerance_of(const Product& p, const ref::Matrix& a, const ref::Matrix& b,
                                const ref::Matrix& before) {
  ref::Dense<double> tolerance = ref::gemm(absolute(a), p.a_transposed, absolute(b), p.b_transposed);
  for (size_t i = 0; i < tolerance.values.size(); ++i)
    tolerance.values[i] = (tolerance.values[i] + std::fabs(double{before.values[i]})) * kFloatRoundoff *
                          static_cast<double>(p.k + 3);
  return tolerance;
}

// All streams give the reference's result, within the tolerance, and the bits of the first.
void check(std::span<const Stream> streams, const Product& p, Random& random) {
  SCOPED_TRACE(testing::Message() << "M " << p.m << ", K " << p.k << ", N " << p.n
                                  << (p.a_transposed ? ", A^T" : "") << (p.b_transposed ? ", B^T" : ""));
  const ref::Matrix a =
      random_matrix(random, p.a_transposed ? p.k : p.m, p.a_transposed ? p.m : p.k, DType::f32);
  const ref::Matrix b =
      random_matrix(random, p.b_transposed ? p.n : p.k, p.b_transposed ? p.k : p.n, DType::f32);
  const ref::Matrix before = random_matrix(random, p.m, p.n, DType::f32);
  const AmidNan a_tensor(a);
  const AmidNan b_tensor(b);
  const GemmOperand left{a_tensor.view(), p.a_transposed};
  const GemmOperand right{b_tensor.view(), p.b_transposed};
  ref::Dense<double> product = ref::gemm(a, p.a_transposed, b, p.b_transposed);
  ref::Dense<double> sum = product;
  for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += double{before.values[i]};
  const ref::Dense<double> tolerance = tolerance_of(p, a, b, before);

  const TestTensor first(DType::f32, p.m, p.n);
  const TestTensor first_sum(DType::f32, before);
  for (const Stream& stream : streams) {
    GemmScratch scratch;
    PackedRhs packed;
    pack_rhs(stream, right, packed);
    const TestTensor assigned(DType::f32, p.m, p.n);
    const TestTensor from_packed(DType::f32, p.m, p.n);
    const TestTensor accumulated(DType::f32, before);
    gemm(stream, left, right, assigned, GemmMode::assign, scratch);
    gemm(stream, left, packed, from_packed, GemmMode::assign);
    gemm(stream, left, right, accumulated, GemmMode::accumulate, scratch);
    if (&stream == streams.data()) {
      gemm(stream, left, right, first, GemmMode::assign, scratch);
      gemm(stream, left, right, first_sum, GemmMode::accumulate, scratch);
      expect_within(assigned.values(), product, tolerance);
      expect_within(accumulated.values(), sum, tolerance);
    }
    expect_same_bits(assigned, first);
    expect_same_bits(from_packed, first);
    expect_same_bits(accumulated, first_sum);
  }
}

// Around the edges of tiles, panels, and the blocks of rows, columns and K that a task has.
TEST_P(GemmTest, AgreesWithTheReferenceWithAnyNumberOfThreads) {
  constexpr Product kProducts[] = {{1, 1, 1, false, false},      {1, 300, 1, true, true},
                                   {6, 128, 64, false, false},   {7, 129, 65, true, false},
                                   {5, 127, 17, false, true},    {192, 16, 512, true, true},
                                   {193, 256, 513, true, false}, {400, 130, 33, false, true},
                                   {13, 3, 1030, true, true},    {23, 1000, 40, true, false}};
  Random random(1);
  for (const Product& p : kProducts) check(three_streams(), p, random);
}

TEST_P(GemmTest, AgreesWithTheReferenceOnRandomShapes) {
  Random random(2);
  for (int i = 0; i < 30; ++i) {
    const Product p{random_int(random, 1, 250), random_int(random, 1, 300), random_int(random, 1, 150),
                    random_int(random, 0, 1) == 1, random_int(random, 0, 1) == 1};
    check(three_streams(), p, random);
  }
}

TEST_P(GemmTest, ARowDoesNotDependOnOtherRows) {
  Random random(3);
  const ref::Matrix a = random_matrix(random, 40, 300, DType::f32);
  const TestTensor b(DType::f32, random_matrix(random, 300, 70, DType::f32));
  const TestTensor left(DType::f32, a);
  const TestTensor whole(DType::f32, 40, 70);
  GemmScratch scratch;
  gemm(three_streams()[2], {left, false}, {b, false}, whole, GemmMode::assign, scratch);
  for (int64_t r = 0; r < 40; ++r) {
    const TestTensor row(DType::f32, row_of(a, r));
    const TestTensor out(DType::f32, 1, 70);
    gemm(three_streams()[0], {row, false}, {b, false}, out, GemmMode::assign, scratch);
    expect_same_row(out, 0, whole, r);
  }
}

TEST_P(GemmTest, OneScratchServesSmallerAndLargerProducts) {
  Random random(4);
  GemmScratch shared;
  const Stream stream = three_streams()[1];
  for (const int64_t n : {100, 7, 300}) {
    const TestTensor a(DType::f32, random_matrix(random, 9, 50 + n, DType::f32));
    const TestTensor b(DType::f32, random_matrix(random, 50 + n, n, DType::f32));
    const TestTensor out(DType::f32, 9, n);
    const TestTensor alone(DType::f32, 9, n);
    GemmScratch fresh;
    gemm(stream, {a, false}, {b, false}, out, GemmMode::assign, shared);
    gemm(stream, {a, false}, {b, false}, alone, GemmMode::assign, fresh);
    expect_same_bits(out, alone);
  }
}

TEST_P(GemmTest, AProductOverNothingIsZero) {
  const TestTensor a(DType::f32, 3, 0);
  const TestTensor b(DType::f32, 0, 5);
  const TestTensor none(DType::f32, 0, 5);
  Random random(5);
  const ref::Matrix before = random_matrix(random, 3, 5, DType::f32);
  const TestTensor kept(DType::f32, before);
  const TestTensor zeros(DType::f32, 3, 5);
  GemmScratch scratch;
  for (const Stream& stream : three_streams()) {
    gemm(stream, {a, false}, {b, false}, kept, GemmMode::accumulate, scratch);
    gemm(stream, {a, false}, {b, false}, zeros, GemmMode::assign, scratch);
    gemm(stream, {none, false}, {b, true}, Tensor(none->middle_columns(0, 0)), GemmMode::assign, scratch);
    EXPECT_EQ(kept.values().values, before.values);
    EXPECT_EQ(zeros.values().values, ref::Matrix(3, 5).values);
  }
}

// ---- one gated MLP: loss = sum((silu(X g^T) * (X u^T)) d^T - T)^2 ----

struct Mlp {
  ref::Matrix x, target;       // [M, H]
  ref::Matrix gate, up, down;  // [I, H], [I, H], [H, I]
};

double loss_of(const Mlp& mlp) {
  const ref::Dense<double> gate = ref::gemm(mlp.x, false, mlp.gate, true);
  const ref::Dense<double> up = ref::gemm(mlp.x, false, mlp.up, true);
  double loss = 0;
  for (int64_t m = 0; m < mlp.x.rows; ++m) {
    for (int64_t h = 0; h < mlp.x.columns; ++h) {
      double error = -double{mlp.target.at(m, h)};
      for (int64_t i = 0; i < gate.columns; ++i)
        error += ref::silu(gate.at(m, i)) * up.at(m, i) * double{mlp.down.at(h, i)};
      loss += error * error;
    }
  }
  return loss;
}

struct MlpGradient {
  ref::Matrix gate, up, down;
};

// As a fit computes it, in float32.
MlpGradient gradient_of(const Stream& stream, const Mlp& mlp) {
  const int64_t rows = mlp.x.rows, hidden = mlp.x.columns, inner = mlp.gate.rows;
  const TestTensor x(DType::f32, mlp.x), g(DType::f32, mlp.gate), u(DType::f32, mlp.up),
      d(DType::f32, mlp.down);
  const TestTensor gate(DType::f32, rows, inner), up(DType::f32, rows, inner), act(DType::f32, rows, inner);
  const TestTensor d_act(DType::f32, rows, inner);
  const TestTensor d_g(DType::f32, inner, hidden), d_u(DType::f32, inner, hidden),
      d_d(DType::f32, hidden, inner);
  ref::Matrix minus_target = mlp.target;
  for (float& value : minus_target.values) value = -value;
  const TestTensor error(DType::f32, minus_target);
  GemmScratch scratch;
  gemm(stream, {x, false}, {g, true}, gate, GemmMode::assign, scratch);
  gemm(stream, {x, false}, {u, true}, up, GemmMode::assign, scratch);
  gated_activation(stream, gate, up, act);
  gemm(stream, {act, false}, {d, true}, error, GemmMode::accumulate, scratch);
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t h = 0; h < hidden; ++h) error->row<float>(m)[h] *= 2;  // of the square
  gemm(stream, {error, true}, {act, false}, d_d, GemmMode::assign, scratch);
  gemm(stream, {error, false}, {d, false}, d_act, GemmMode::assign, scratch);
  gated_activation_backward(stream, gate, up, d_act, gate, up);  // in place
  PackedRhs packed;
  pack_rhs(stream, {x, false}, packed);
  gemm(stream, {gate, true}, packed, d_g, GemmMode::assign);
  gemm(stream, {up, true}, packed, d_u, GemmMode::assign);
  return {d_g.values(), d_u.values(), d_d.values()};
}

// Central differences of the loss in double precision: off by the step squared, and the float32 gradient by
// roundings that are small beside its largest elements.
void expect_difference_quotients(Mlp& mlp, ref::Matrix Mlp::*weight, const ref::Matrix& gradient) {
  constexpr float kStep = 0x1p-12F;
  float largest = 0;
  for (const float value : gradient.values) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < gradient.values.size(); ++i) {
    float& value = (mlp.*weight).values[i];
    const float before = value;
    const float above = before + kStep;
    const float below = before - kStep;
    value = above;
    const double loss_above = loss_of(mlp);
    value = below;
    const double loss_below = loss_of(mlp);
    value = before;
    EXPECT_NEAR(gradient.values[i], (loss_above - loss_below) / (double{above} - double{below}),
                1e-5 * double{largest});
  }
}

TEST_P(GemmTest, GradientsOfAGatedMlpAreDifferenceQuotients) {
  Random random(6);
  Mlp mlp{.x = random_matrix(random, 17, 11, DType::f32),
          .target = random_matrix(random, 17, 11, DType::f32),
          .gate = random_matrix(random, 9, 11, DType::f32, 0.5F),
          .up = random_matrix(random, 9, 11, DType::f32, 0.5F),
          .down = random_matrix(random, 11, 9, DType::f32, 0.5F)};
  const MlpGradient gradient = gradient_of(three_streams()[1], mlp);
  expect_difference_quotients(mlp, &Mlp::gate, gradient.gate);
  expect_difference_quotients(mlp, &Mlp::up, gradient.up);
  expect_difference_quotients(mlp, &Mlp::down, gradient.down);
}

}  // namespace
}  // namespace chorale
