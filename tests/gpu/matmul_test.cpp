#include "kernels/matmul.h"

#include "gpu/products_test.h"
#include "kernels/ref/tensor_core.h"

namespace chorale::cuda {
namespace {

struct Product {
  GpuMatrices weight;
  GpuTensor out;
  Product(const ref::Matrix& w, int64_t rows)
      : weight(TiledLayout{w.rows, w.columns}, std::span(&w, 1)), out(DType::f32, rows, w.rows) {}
};

ref::Matrix run(const ref::Matrix& x, const ref::Matrix& w, Choice choice, const ref::Matrix& bias = {}) {
  Product product(w, x.rows);
  const GpuTensor gpu_bias(DType::f32, bias);
  const TiledTarget target{product.weight.matrix(), bias.empty() ? Tensor() : Tensor(gpu_bias), product.out};
  matmul(queue(), GpuTensor(DType::bf16, x), std::span(&target, 1), choice);
  return product.out.values();
}
void expect_equal(const ref::Matrix& actual, const ref::Matrix& expected) {
  expect_same_bits(TestTensor(DType::f32, actual), TestTensor(DType::f32, expected));
}

TEST(GpuMatmul, ThePlainKernelHasTheBitsOfTheReference) {
  Random random(1);
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t m = random_int(random, 1, 20), k = random_int(random, 1, 300),
                  n = random_int(random, 1, 150);
    const ref::Matrix x = random_matrix(random, m, k, DType::bf16),
                      w = random_matrix(random, n, k, DType::bf16);
    const ref::Matrix bias = trial % 2 == 0 ? ref::Matrix() : random_matrix(random, 1, n, DType::f32);
    expect_equal(run(x, w, Choice::plain, bias), ref::tensor_core_matmul(x, w, bias));
  }
}

TEST(GpuMatmul, ThePlannedKernelHasTheBitsOfTheReference) {
  Random random(2);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t m = random_rows_count(random, 257), k = 64 * random_int(random, 1, 9);
    const int64_t n = random_int(random, 1, 200);
    const ref::Matrix x = random_matrix(random, m, k, DType::bf16),
                      w = random_matrix(random, n, k, DType::bf16);
    const ref::Matrix bias = trial % 2 == 0 ? ref::Matrix() : random_matrix(random, 1, n, DType::f32);
    SCOPED_TRACE(fmt::format("{} x {} x {}", m, n, k));
    expect_equal(run(x, w, Choice::planned, bias), ref::tensor_core_matmul(x, w, bias));
  }
}

TEST(GpuMatmul, SeveralTargetsAreAsOneAfterTheOther) {
  Random random(3);
  for (int64_t m : {1, 5, 40, 130, 700}) {
    const ref::Matrix x = random_matrix(random, m, 256, DType::bf16);
    std::vector<ref::Matrix> weights;
    std::vector<Product> products;
    std::vector<TiledTarget> targets;
    for (int64_t n : {520, 64, 100, 1}) weights.push_back(random_matrix(random, n, 256, DType::bf16));
    for (const ref::Matrix& w : weights) products.emplace_back(w, m);
    for (const Product& p : products) targets.push_back({p.weight.matrix(), {}, p.out});
    matmul(queue(), GpuTensor(DType::bf16, x), targets);
    for (size_t t = 0; t < weights.size(); ++t)
      expect_equal(products[t].out.values(), run(x, weights[t], Choice::plain));
  }
}

// The kernels of prefill, at sizes that are too large for the reference: against the plain kernel.
TEST(GpuMatmul, ManyRowsHaveTheBitsOfThePlainKernel) {
  Random random(4);
  struct Size {
    int64_t m, n, k;
  };
  for (const auto& [m, n, k] :
       {Size{513, 5120, 2048}, Size{2048, 2560, 1024}, Size{300, 20'000, 512}, Size{8192, 640, 512},
        Size{1, 20'000, 2048}, Size{128, 5120, 2048}, Size{3000, 1984, 832}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", m, n, k));
    const ref::Matrix x = random_matrix(random, m, k, DType::bf16),
                      w = random_matrix(random, n, k, DType::bf16);
    expect_equal(run(x, w, Choice::planned), run(x, w, Choice::plain));
  }
}

TEST(GpuMatmul, ARowDoesNotDependOnTheOthers) {
  Random random(5);
  const ref::Matrix w = random_matrix(random, 1000, 1024, DType::bf16);
  ref::Matrix x = random_matrix(random, 600, 1024, DType::bf16);
  x.at(3, 7) = std::nanf("");
  const ref::Matrix all = run(x, w, Choice::planned);
  for (int64_t row : {0, 2, 4, 255, 256, 599})
    expect_equal(run(row_of(x, row), w, Choice::planned), row_of(all, row));
  EXPECT_TRUE(std::isnan(all.at(3, 0)));
}

TEST(GpuMatmul, RepeatsItsBitsWhileOthersRun) {
  Random random(6);
  const ref::Matrix x = random_matrix(random, 64, 2048, DType::bf16),
                    w = random_matrix(random, 5120, 2048, DType::bf16);
  Product product(w, x.rows);
  const GpuTensor gpu_x(DType::bf16, x);
  const TiledTarget target{product.weight.matrix(), {}, product.out};
  const ref::Matrix expected = run(x, w, Choice::plain);
  for (int i = 0; i < 50; ++i) matmul(queue(), gpu_x, std::span(&target, 1));
  expect_equal(product.out.values(), expected);
}

}  // namespace
}  // namespace chorale::cuda
