#include "kernels/expert_matmul.h"

#include "gpu/products_test.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/float_math.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/ref/tensor_core.h"

namespace chorale::cuda {
namespace {

// Bytes between two experts' matrices, where others may lie: none, or some.
int64_t random_gap(Random& random) {
  return random_int(random, 0, 1) == 0 ? 0 : 16 * random_int(random, 1, 2000);
}

// ---- gated ----

struct Gated {
  std::vector<ref::Matrix> gate, up;
  GpuMatrices packed;
  Gated(Random& random, int64_t experts, int64_t n, int64_t k, int64_t gap = 0)
      : gate(random_matrices(random, experts, n, k, 0.1F)),
        up(random_matrices(random, experts, n, k, 0.1F)),
        packed(TiledLayout{n, k, 1, true}, gate, up, gap) {}

  ref::Matrix run(const ref::Matrix& x, const ExpertRows& rows, int64_t num_rows, Choice choice) const {
    const GpuTensor out(DType::bf16, num_rows, gate[0].rows);
    gated_matmul(queue(), GpuTensor(DType::bf16, x), packed.experts(), rows, out, {.choice = choice});
    return out.values();
  }
  // The same with rows that are gathered before.
  ref::Matrix run_gathered(const ref::Matrix& x, const std::vector<ref::ExpertRow>& rows,
                           const ExpertRows& gpu_rows) const {
    ref::Matrix gathered(std::ssize(rows), x.columns);
    for (int64_t r = 0; r < gathered.rows; ++r)
      std::copy_n(x.values.begin() + rows[static_cast<size_t>(r)].token * x.columns, x.columns,
                  gathered.values.begin() + r * x.columns);
    const GpuTensor out(DType::bf16, gathered.rows, gate[0].rows);
    gated_matmul(queue(), GpuTensor(DType::bf16, gathered), packed.experts(), gpu_rows, out,
                 {.input = RowInput::by_row});
    return out.values();
  }
  ref::Matrix expected(const ref::Matrix& x, const std::vector<ref::ExpertRow>& rows) const {
    const ref::GatePair pair = ref::tensor_core_gate_pair(x, gate, up, rows);
    ref::Matrix out(pair.gate.rows, pair.gate.columns);
    for (size_t i = 0; i < out.values.size(); ++i)
      out.values[i] = to_float(to_bf16(silu(pair.gate.values[i]) * pair.up.values[i]));
    return out;
  }
};
void expect_equal(const ref::Matrix& actual, const ref::Matrix& expected) {
  expect_same_bits(TestTensor(DType::f32, actual), TestTensor(DType::f32, expected));
}

TEST(GpuGatedMatmul, HasTheBitsOfTheReference) {
  Random random(1);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t experts = std::array{1, 3, 8, 128}[static_cast<size_t>(trial % 4)];
    const int64_t top_k = std::min<int64_t>(experts, random_int(random, 1, 4));
    const int64_t tokens = random_rows_count(random, experts == 128 ? 40 : 129);
    const bool odd = trial % 5 == 0;
    const int64_t n = odd ? random_int(random, 1, 60) : 8 * random_int(random, 1, 12);
    const int64_t k = odd ? random_int(random, 1, 200) : 64 * random_int(random, 1, 5);
    SCOPED_TRACE(fmt::format("{} experts, {} tokens, {} x {}", experts, tokens, n, k));
    const Gated gated(random, experts, n, k, random_gap(random));
    const ref::Matrix x = random_matrix(random, tokens, k, DType::bf16);
    const auto rows = random_rows(random, tokens, top_k, first_experts(experts));
    const GpuRows gpu_rows(rows, experts);
    const ref::Matrix expected = gated.expected(x, rows);
    expect_equal(gated.run(x, gpu_rows.view(), std::ssize(rows), Choice::planned), expected);
    expect_equal(gated.run(x, gpu_rows.view(), std::ssize(rows), Choice::plain), expected);
    expect_equal(gated.run_gathered(x, rows, gpu_rows.view()), expected);
    if (experts == 1)
      expect_equal(gated.run(x, {}, tokens, Choice::planned), gated.expected(x, dense_rows(tokens)));
  }
}

TEST(GpuGatedMatmul, ManyRowsHaveTheBitsOfThePlainKernel) {
  Random random(2);
  struct Size {
    int64_t experts, tokens, top_k, n, k;
  };
  for (const auto& [experts, tokens, top_k, n, k] :
       {Size{8, 1500, 4, 768, 1024}, Size{1, 8192, 1, 256, 512}, Size{128, 2048, 8, 96, 256},
        Size{16, 700, 2, 400, 832}, Size{1, 777, 1, 3072, 1024}}) {
    SCOPED_TRACE(fmt::format("{} experts, {} tokens", experts, tokens));
    const Gated gated(random, experts, n, k);
    const ref::Matrix x = random_matrix(random, tokens, k, DType::bf16);
    const auto rows = random_rows(random, tokens, top_k, first_experts(experts));
    const GpuRows gpu_rows(rows, experts);
    const ref::Matrix plain = gated.run(x, gpu_rows.view(), std::ssize(rows), Choice::plain);
    expect_equal(gated.run(x, gpu_rows.view(), std::ssize(rows), Choice::planned), plain);
    expect_equal(gated.run_gathered(x, rows, gpu_rows.view()), plain);
  }
}

// All tokens at a few experts, the others without any.
TEST(GpuGatedMatmul, ExpertsMayHaveNoRowsOrAll) {
  Random random(3);
  const Gated gated(random, 32, 64, 128);
  for (int64_t tokens : {1, 20, 100, 300}) {
    const ref::Matrix x = random_matrix(random, tokens, 128, DType::bf16);
    for (const std::vector<int32_t>& allowed : {std::vector<int32_t>{31}, {0, 17}, {5, 6, 7}}) {
      const auto rows = random_rows(random, tokens, 1, allowed);
      const GpuRows gpu_rows(rows, 32);
      expect_equal(gated.run(x, gpu_rows.view(), std::ssize(rows), Choice::planned), gated.expected(x, rows));
    }
  }
}

// ---- order-free ----

struct Down {
  int64_t n, k, chunks;
  std::vector<ref::Matrix> weights;
  GpuMatrices packed;
  Down(Random& random, int64_t experts, int64_t num_outputs, int64_t num_inputs, int64_t num_chunks,
       int64_t gap = 0, float deviation = 1)
      : n(num_outputs),
        k(num_inputs),
        chunks(num_chunks),
        weights(random_matrices(random, experts, n, k, deviation)),
        packed(TiledLayout{n, k, chunks, false}, weights, {}, gap) {}

  ref::Dense<int64_t> run(const ref::Matrix& x, const ExpertRows& rows, int64_t tokens, Choice choice,
                          SumMode mode = SumMode::add) const {
    TestTensor zeros(DType::i64, tokens, n + 1);
    for (int64_t t = 0; t < tokens && mode == SumMode::add; ++t)
      std::fill_n(zeros->row<int64_t>(t), n + 1, 0);
    const GpuTensor sums(zeros);
    order_free_matmul(queue(), GpuTensor(DType::bf16, x), packed.experts(), rows, sums,
                      {.mode = mode, .choice = choice});
    return to_dense<int64_t>(sums.download());
  }
  // With memory for partial sums, on sums that begin as `before`.
  ref::Dense<int64_t> run_with_scratch(const ref::Matrix& x, ExpertRows rows, const TestTensor& before,
                                       SumMode mode) const {
    const GpuTensor sums(before);
    const GpuTensor scratch(DType::f32, 1, partials_scratch_floats(x.rows, sums.download()->rows(), n));
    rows.scratch = scratch;
    order_free_matmul(queue(), GpuTensor(DType::bf16, x), packed.experts(), rows, sums, {.mode = mode});
    return to_dense<int64_t>(sums.download());
  }
  // All ways of adding up rows of experts give `sums`, whatever was there before.
  void expect_sums(const ref::Matrix& x, const ExpertRows& rows, const ref::Dense<int64_t>& sums) const;
  ref::Dense<int64_t> expected(const ref::Matrix& x, const std::vector<ref::ExpertRow>& rows,
                               int64_t tokens) const {
    ref::Dense<int64_t> sums(tokens, n + 1);
    ref::tensor_core_order_free_matmul(x, weights, chunks, rows, sums);
    return sums;
  }
};
void expect_equal(const ref::Dense<int64_t>& actual, const ref::Dense<int64_t>& expected) {
  int64_t wrong = 0;
  for (size_t i = 0; i < actual.values.size(); ++i) wrong += actual.values[i] != expected.values[i] ? 1 : 0;
  EXPECT_EQ(wrong, 0) << "sums of " << actual.values.size();
}

void Down::expect_sums(const ref::Matrix& x, const ExpertRows& rows, const ref::Dense<int64_t>& sums) const {
  const int64_t tokens = sums.rows;
  expect_equal(run(x, rows, tokens, Choice::planned), sums);
  TestTensor before(DType::i64, tokens, n + 1);
  for (int64_t t = 0; t < tokens; ++t) std::fill_n(before->row<int64_t>(t), n + 1, 0);
  expect_equal(run_with_scratch(x, rows, before, SumMode::add_to_zeros), sums);
  ref::Dense<int64_t> added = sums;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c <= n; ++c) {
      before->row<int64_t>(t)[c] = 3 * t - 7 * c;
      added.at(t, c) += 3 * t - 7 * c;
    }
  }
  expect_equal(run_with_scratch(x, rows, before, SumMode::add), added);
}

struct Chunks {
  int64_t count, inputs;
};
// Chunks of whole stages, two in three tiles, and those that the plain kernel alone has.
constexpr Chunks kChunks[] = {{1, 128}, {1, 64},  {2, 128}, {3, 64}, {8, 96},
                              {4, 96},  {8, 128}, {2, 192}, {8, 24}, {3, 100}};

TEST(GpuOrderFreeMatmul, HasTheBitsOfTheReference) {
  Random random(4);
  for (int trial = 0; trial < 60; ++trial) {
    const Chunks& chunk = kChunks[trial % std::ssize(kChunks)];
    const int64_t experts = std::array{1, 3, 128}[static_cast<size_t>(trial % 3)];
    const int64_t top_k = std::min<int64_t>(experts, random_int(random, 1, 4));
    const int64_t tokens = random_rows_count(random, experts == 128 ? 33 : 129);
    const int64_t n = random_int(random, 1, 150);
    SCOPED_TRACE(
        fmt::format("{} experts, {} tokens, {} chunks of {}", experts, tokens, chunk.count, chunk.inputs));
    const Down down(random, experts, n, chunk.count * chunk.inputs, chunk.count, random_gap(random));
    const auto rows = random_rows(random, tokens, top_k, first_experts(experts));
    const GpuRows gpu_rows(rows, experts);
    const ref::Matrix x = random_matrix(random, std::ssize(rows), down.k, DType::bf16);
    const ref::Dense<int64_t> expected = down.expected(x, rows, tokens);
    down.expect_sums(x, gpu_rows.view(), expected);
    expect_equal(down.run(x, gpu_rows.view(), tokens, Choice::plain), expected);
    if (experts > 1) continue;
    const ref::Matrix dense_x = random_matrix(random, tokens, down.k, DType::bf16);
    expect_equal(down.run(dense_x, {}, tokens, Choice::planned, SumMode::assign),
                 down.expected(dense_x, dense_rows(tokens), tokens));
  }
}

TEST(GpuOrderFreeMatmul, ManyRowsHaveTheBitsOfThePlainKernel) {
  Random random(5);
  struct Size {
    int64_t experts, tokens, top_k, n, chunks, inputs;
  };
  for (const auto& [experts, tokens, top_k, n, chunks, inputs] :
       {Size{8, 1500, 4, 512, 8, 96}, Size{1, 8192, 1, 256, 8, 64}, Size{128, 2048, 8, 200, 8, 96},
        Size{1, 1000, 1, 2048, 8, 512}, Size{1, 3, 1, 2048, 8, 512}, Size{4, 600, 2, 640, 1, 832},
        Size{4, 150, 2, 640, 1, 832}, Size{128, 2048, 8, 200, 1, 768}, Size{1, 5000, 1, 1024, 1, 256},
        Size{1, 300, 1, 2000, 1, 128}, Size{5, 1200, 5, 2048, 1, 64}}) {
    // Partial sums of about the square root of a chunk's inputs times this.
    for (float deviation : {1.0F, 0.1F, 1e-3F, 1e-5F}) {
      SCOPED_TRACE(fmt::format("{} experts, {} tokens, {} chunks of {}, deviation {}", experts, tokens,
                               chunks, inputs, deviation));
      const Down down(random, experts, n, chunks * inputs, chunks, 0, deviation);
      const auto rows = random_rows(random, tokens, top_k, first_experts(experts));
      const GpuRows gpu_rows(rows, experts);
      const ref::Matrix x = random_matrix(random, std::ssize(rows), down.k, DType::bf16);
      down.expect_sums(x, gpu_rows.view(), down.run(x, gpu_rows.view(), tokens, Choice::plain));
      if (experts > 1) continue;
      const ref::Dense<int64_t> plain = down.run(x, {}, tokens, Choice::plain);
      expect_equal(down.run(x, {}, tokens, Choice::planned), plain);
      expect_equal(down.run(x, {}, tokens, Choice::planned, SumMode::assign), plain);
    }
  }
}

TEST(GpuOrderFreeMatmul, CountsWhatIsNotANumberAndSaturates) {
  Random random(6);
  for (const Chunks& chunk : kChunks) {
    for (int64_t tokens : {1, 12, 70, 300}) {
      const Down down(random, 1, 100, chunk.count * chunk.inputs, chunk.count);
      ref::Matrix x = random_matrix(random, tokens, down.k, DType::bf16);
      x.at(0, 3) = std::numeric_limits<float>::infinity();
      x.at(tokens - 1, down.k - 1) = std::nanf("");
      if (tokens > 2)
        for (int64_t i = 0; i < down.k; ++i) x.at(1, i) = to_float(to_bf16(x.at(1, i) * 0x1p30F));
      const ref::Dense<int64_t> expected = down.expected(x, dense_rows(tokens), tokens);
      expect_equal(down.run(x, {}, tokens, Choice::planned), expected);
      expect_equal(down.run(x, {}, tokens, Choice::planned, SumMode::assign), expected);
      expect_equal(down.run(x, {}, tokens, Choice::plain), expected);
      // The same rows for two experts each.
      const Down experts(random, 2, 100, chunk.count * chunk.inputs, chunk.count);
      const auto routed = random_rows(random, tokens, 2, first_experts(2));
      ref::Matrix twice(2 * tokens, down.k);
      std::copy(x.values.begin(), x.values.end(), twice.values.begin());
      std::copy(x.values.begin(), x.values.end(), twice.values.begin() + std::ssize(x.values));
      const GpuRows gpu_rows(routed, 2);
      experts.expect_sums(twice, gpu_rows.view(), experts.expected(twice, routed, tokens));
    }
  }
}

// Partial sums that are added where they are used give the bits of sums in between.
TEST(GpuPartialSums, HaveTheBitsOfSumsInBetween) {
  Random random(7);
  struct Size {
    int64_t experts, tokens, top_k, n, inputs;
  };
  for (const auto& [experts, tokens, top_k, n, inputs] :
       {Size{8, 700, 3, 2048, 128}, Size{4, 1500, 4, 200, 64}, Size{12, 900, 12, 1022, 64},
        Size{1, 600, 1, 4096, 128}, Size{3, 800, 2, 3000, 64}}) {
    for (const bool has_nan : {false, true}) {
      SCOPED_TRACE(fmt::format("{} experts, {} tokens, {} outputs", experts, tokens, n));
      const Down down(random, experts, n, inputs, 1);
      const bool all_tokens = experts == 1;
      const auto routed = random_rows(random, tokens, top_k, first_experts(experts));
      ref::Matrix x = random_matrix(random, tokens * top_k, inputs, DType::bf16);
      if (has_nan) {
        x.at(3, 0) = std::nanf("");
        x.at(x.rows - 1, 1) = std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < inputs; ++i) x.at(5, i) = to_float(to_bf16(x.at(5, i) * 0x1p30F));
      }
      const GpuRows gpu_rows(routed, experts);
      const GpuTensor scratch(DType::f32, 1, partials_scratch_floats(x.rows, tokens, n));
      ExpertRows rows = all_tokens ? ExpertRows{} : gpu_rows.view();
      rows.scratch = scratch;
      const GpuTensor gpu_x(DType::bf16, x);
      const GpuTensor bias(DType::f32, random_matrix(random, 1, n, DType::f32));
      const GpuTensor weight(DType::f32, random_matrix(random, 1, n, DType::f32));
      const ref::Matrix before = random_matrix(random, tokens, n, DType::f32);

      const GpuTensor residual(DType::f32, before), out(DType::bf16, tokens, n);
      const PartialSums partials = order_free_partials(queue(), gpu_x, down.packed.experts(), rows, tokens);
      ASSERT_FALSE(partials.empty());
      add_partials_norm(queue(), partials, bias, residual, {weight, 1e-6F}, out);

      const GpuTensor expected_residual(DType::f32, before), expected_out(DType::bf16, tokens, n);
      const GpuTensor sums(DType::i64, tokens, n + 1);
      add_partials(queue(), partials, sums, SumMode::assign);
      expect_equal(to_dense<int64_t>(sums.download()),
                   down.run(x, all_tokens ? ExpertRows{} : gpu_rows.view(), tokens, Choice::plain,
                            all_tokens ? SumMode::assign : SumMode::add));
      add_sums_norm(queue(), sums, bias, expected_residual, weight, 1e-6F, expected_out);
      expect_same_bits(residual.download(), expected_residual.download());
      expect_same_bits(out.download(), expected_out.download());
    }
  }
}

}  // namespace
}  // namespace chorale::cuda
