// Products of float32 matrices, which are for checking: against the references in double precision, within
// what the order of their sums may lose, and a row's bits by equality.
#include "gpu/products_test.h"
#include "kernels/ref/expert_matmul.h"
#include "kernels/ref/fixed_point.h"
#include "kernels/ref/matmul.h"

namespace chorale::cuda {
namespace {

// K fused multiply-adds, each off by at most the unit roundoff of a partial sum, which is at most the sum of
// magnitudes; a bias is one more rounding.
ref::Dense<double> matmul_tolerance(const ref::Matrix& x, const ref::Matrix& weight,
                                    const ref::Matrix& bias) {
  ref::Dense<double> tolerance = ref::matmul(absolute(x), absolute(weight), absolute(bias));
  for (double& t : tolerance.values) t *= kFloatRoundoff * static_cast<double>(x.columns + 2);
  return tolerance;
}

TiledLayout float_layout(int64_t n, int64_t k, int64_t k_chunks = 1, bool fused_pair = false) {
  return {n, k, k_chunks, fused_pair, DType::f32};
}
std::vector<ref::Matrix> float_matrices(Random& random, int64_t count, int64_t rows, int64_t columns) {
  std::vector<ref::Matrix> matrices;
  for (int64_t i = 0; i < count; ++i)
    matrices.push_back(random_matrix(random, rows, columns, DType::f32, 0.5F));
  return matrices;
}

TEST(GpuFloatMatmul, AgreesWithTheReference) {
  Random random(1);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t m = random_rows_count(random, 65), k = random_int(random, 1, 300);
    const ref::Matrix x = random_matrix(random, m, k, DType::f32);
    std::vector<ref::Matrix> weights, biases;
    std::vector<GpuMatrices> packed;
    std::vector<GpuTensor> gpu_biases, outs;
    std::vector<TiledTarget> targets;
    for (int64_t t = random_int(random, 1, 4); t > 0; --t) {
      weights.push_back(random_matrix(random, random_int(random, 1, 150), k, DType::f32));
      const int64_t n = weights.back().rows;
      biases.push_back(random_int(random, 0, 1) == 0 ? ref::Matrix()
                                                     : random_matrix(random, 1, n, DType::f32));
      packed.emplace_back(float_layout(n, k), std::span(&weights.back(), 1));
      gpu_biases.emplace_back(DType::f32, biases.back());
      outs.emplace_back(DType::f32, m, n);
    }
    for (size_t t = 0; t < weights.size(); ++t)
      targets.push_back(
          {packed[t].matrix(), biases[t].empty() ? Tensor() : Tensor(gpu_biases[t]), Tensor(outs[t])});
    matmul(queue(), GpuTensor(DType::f32, x), targets);
    for (size_t t = 0; t < weights.size(); ++t) {
      SCOPED_TRACE(fmt::format("{} x {} x {}", m, weights[t].rows, k));
      expect_within(outs[t].values(), ref::matmul(x, weights[t], biases[t]),
                    matmul_tolerance(x, weights[t], biases[t]));
    }
  }
}

TEST(GpuFloatMatmul, ARowDoesNotDependOnTheOthers) {
  Random random(2);
  const ref::Matrix weight = random_matrix(random, 130, 200, DType::f32);
  const GpuMatrices packed(float_layout(130, 200), std::span(&weight, 1));
  ref::Matrix x = random_matrix(random, 77, 200, DType::f32);
  x.at(3, 7) = std::nanf("");
  const auto run = [&](const ref::Matrix& rows) {
    const GpuTensor out(DType::f32, rows.rows, 130);
    const TiledTarget target{packed.matrix(), {}, out};
    matmul(queue(), GpuTensor(DType::f32, rows), std::span(&target, 1));
    return out.download();
  };
  const TestTensor all = run(x);
  for (int64_t row : {0, 2, 3, 7, 8, 76}) expect_same_row(run(row_of(x, row)), 0, all, row);
  EXPECT_TRUE(std::isnan(all->row<float>(3)[0]));
}

struct FloatGated {
  std::vector<ref::Matrix> gate, up;
  GpuMatrices packed;
  FloatGated(Random& random, int64_t experts, int64_t n, int64_t k, int64_t gap)
      : gate(float_matrices(random, experts, n, k)),
        up(float_matrices(random, experts, n, k)),
        packed(float_layout(n, k, 1, true), gate, up, gap) {}

  TestTensor run(const ref::Matrix& x, const ExpertRows& rows, int64_t num_rows) const {
    const GpuTensor out(DType::f32, num_rows, gate[0].rows);
    gated_matmul(queue(), GpuTensor(DType::f32, x), packed.experts(), rows, out);
    return out.download();
  }
  // As in the test of the CPU's gated product; the exponential is that of float_math.h.
  ref::Dense<double> tolerance(const ref::Matrix& x, const std::vector<ref::ExpertRow>& rows,
                               const ref::Dense<double>& expected) const {
    const double dot = kFloatRoundoff * static_cast<double>(x.columns + 1);
    ref::Dense<double> tolerance(expected.rows, expected.columns);
    for (int64_t r = 0; r < expected.rows; ++r) {
      const ref::ExpertRow& row = rows[static_cast<size_t>(r)];
      const auto e = static_cast<size_t>(row.expert);
      const ref::Matrix input = row_of(x, row.token);
      const ref::Dense<double> g = ref::matmul(input, gate[e]), u = ref::matmul(input, up[e]);
      const ref::Dense<double> g_magnitude = ref::matmul(absolute(input), absolute(gate[e]));
      const ref::Dense<double> u_magnitude = ref::matmul(absolute(input), absolute(up[e]));
      for (int64_t i = 0; i < expected.columns; ++i)
        tolerance.at(r, i) = dot * (1.1 * g_magnitude.at(0, i) * std::fabs(u.at(0, i)) +
                                    std::fabs(g.at(0, i)) * u_magnitude.at(0, i)) +
                             std::fabs(expected.at(r, i)) * 16 * kFloatRoundoff + 1e-30;
    }
    return tolerance;
  }
};

TEST(GpuFloatGatedMatmul, AgreesWithTheReference) {
  Random random(3);
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t experts = std::array{1, 3, 128}[static_cast<size_t>(trial % 3)];
    const int64_t top_k = std::min<int64_t>(experts, random_int(random, 1, 4));
    const int64_t tokens = random_rows_count(random, 33);
    const int64_t n = random_int(random, 1, 60), k = random_int(random, 1, 150);
    SCOPED_TRACE(fmt::format("{} experts, {} tokens, {} x {}", experts, tokens, n, k));
    const FloatGated gated(random, experts, n, k, trial % 2 * 4096);
    const ref::Matrix x = random_matrix(random, tokens, k, DType::f32);
    const auto rows = random_rows(random, tokens, top_k, first_experts(experts));
    const GpuRows gpu_rows(rows, experts);
    const TestTensor found = gated.run(x, gpu_rows.view(), std::ssize(rows));
    const ref::Dense<double> expected = ref::gated_matmul(x, gated.gate, gated.up, rows);
    expect_within(found.values(), expected, gated.tolerance(x, rows, expected));
    if (experts > 1) continue;
    expect_same_bits(gated.run(x, {}, tokens), found);
    expect_same_row(gated.run(row_of(x, tokens - 1), {}, 1), 0, found, tokens - 1);
  }
}

TEST(GpuFloatOrderFreeMatmul, AgreesWithTheReference) {
  Random random(4);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t experts = std::array{1, 3, 128}[static_cast<size_t>(trial % 3)];
    const int64_t top_k = std::min<int64_t>(experts, random_int(random, 1, 4));
    const int64_t tokens = random_rows_count(random, 33), chunks = int64_t{1} << random_int(random, 0, 3);
    const int64_t n = random_int(random, 1, 100), k = chunks * random_int(random, 1, 40);
    SCOPED_TRACE(fmt::format("{} experts, {} tokens, {} x {} in {}", experts, tokens, n, k, chunks));
    const std::vector<ref::Matrix> weights = float_matrices(random, experts, n, k);
    const GpuMatrices packed(float_layout(n, k, chunks), weights, {}, trial % 2 * 4096);
    const auto rows = random_rows(random, tokens, top_k, first_experts(experts));
    const GpuRows gpu_rows(rows, experts);
    ref::Matrix x = random_matrix(random, std::ssize(rows), k, DType::f32);
    const ref::Matrix magnitudes = absolute(x);
    if (trial % 5 == 0) x.at(0, 0) = std::nanf("");
    TestTensor zeros(DType::i64, tokens, n + 1);
    for (int64_t t = 0; t < tokens; ++t) std::fill_n(zeros->row<int64_t>(t), n + 1, 0);
    const GpuTensor sums(zeros);
    order_free_matmul(queue(), GpuTensor(DType::f32, x), packed.experts(), gpu_rows.view(), sums);
    ref::Dense<int64_t> expected(tokens, n + 1);
    ref::order_free_matmul(x, weights, chunks, rows, expected);
    // In units: each partial sum is off by its dot product's error and three more roundings.
    ref::Dense<double> tolerance(tokens, n + 1);
    for (int64_t r = 0; r < x.rows; ++r) {
      const ref::ExpertRow& row = rows[static_cast<size_t>(r)];
      const ref::Dense<double> magnitude =
          ref::matmul(row_of(magnitudes, r), absolute(weights[static_cast<size_t>(row.expert)]));
      const double relative = kFloatRoundoff * (static_cast<double>(k / chunks) + 4);
      for (int64_t i = 0; i < n; ++i)
        tolerance.at(row.token, i) +=
            std::fabs(row.weight) * magnitude.at(0, i) * relative * 0x1p36 + static_cast<double>(chunks);
    }
    const ref::Dense<int64_t> found = to_dense<int64_t>(sums.download());
    int64_t wrong = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i <= n; ++i) {
        const auto difference = static_cast<double>(found.at(t, i) - expected.at(t, i));
        wrong += std::fabs(difference) > tolerance.at(t, i) ? 1 : 0;
      }
    }
    EXPECT_EQ(wrong, 0);
    if (experts > 1) continue;
    const GpuTensor assigned(DType::i64, tokens, n + 1);  // begins as -1
    const GpuRows with_weight_one(dense_rows(tokens), 1);
    order_free_matmul(queue(), GpuTensor(DType::f32, x), packed.experts(), {}, assigned,
                      {.mode = SumMode::assign});
    const GpuTensor added(zeros);
    order_free_matmul(queue(), GpuTensor(DType::f32, x), packed.experts(), with_weight_one.view(), added);
    expect_same_bits(assigned.download(), added.download());
  }
}

}  // namespace
}  // namespace chorale::cuda
