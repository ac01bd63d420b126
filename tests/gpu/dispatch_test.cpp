// Ops of dispatch.h on a GPU give what they give on the CPU.
#include "kernels/dispatch.h"

#include <cstring>

#include "gpu/gpu_test.h"
#include "kernels/cuda/cuda_kernels.h"

namespace chorale::cuda {
namespace {

struct Case {
  int64_t tokens, experts, top_k, owners, copies, hidden, variants;
  DType act;
};

Stream cpu_stream() {
  static ThreadPool pool(1);
  return Stream(pool, InstructionSet::portable);
}

TestTensor integers(Random& random, int64_t rows, int64_t columns, int64_t most) {
  TestTensor tensor(DType::i32, rows, columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c)
      tensor->row<int32_t>(r)[c] = static_cast<int32_t>(random_int(random, 0, most));
  }
  return tensor;
}

void check_dispatch(const Case& c) {
  SCOPED_TRACE(testing::Message() << c.tokens << " tokens, " << c.top_k << " of " << c.experts << ", "
                                  << c.owners << " owners, " << c.copies << " copies");
  Random random(5);
  const RowFormat format{c.act, c.hidden, c.top_k};
  const int64_t slots_per_rank = (c.experts + c.owners - 1) / c.owners;
  const int64_t ranks = c.owners * c.copies;
  const int64_t most_rows = c.tokens * std::min(c.top_k, c.owners) * c.copies;
  const TestTensor x(c.act, random_matrix(random, c.tokens, c.hidden, c.act));
  const TestTensor weights(DType::f32, random_matrix(random, c.tokens, c.top_k, DType::f32));
  const TestTensor experts = integers(random, c.tokens, c.top_k, c.experts - 1);
  const TestTensor slots = integers(random, c.variants, c.experts, slots_per_rank * c.owners - 1);

  const TestTensor sent(DType::i64, 1, ranks), tokens(DType::i32, 1, most_rows);
  const TestTensor scratch(DType::i32, c.owners, c.tokens), rows(DType::u8, most_rows, format.bytes());
  chorale::dispatch_rows(cpu_stream(), x, {experts, weights}, {slots, slots_per_rank, c.owners, c.copies},
                         format, {.counts = sent, .tokens = tokens, .rows = rows, .owner_tokens = scratch});

  const GpuTensor gpu_x(x), gpu_weights(weights), gpu_experts(experts), gpu_slots(slots);
  const GpuTensor gpu_sent(DType::i64, 1, ranks), gpu_tokens(DType::i32, 1, most_rows + 3);
  const GpuTensor gpu_scratch(DType::i32, c.owners, c.tokens),
      gpu_rows(DType::u8, most_rows + 3, format.bytes());
  dispatch_rows(queue(), gpu_x, {gpu_experts, gpu_weights}, {gpu_slots, slots_per_rank, c.owners, c.copies},
                format,
                {.counts = gpu_sent, .tokens = gpu_tokens, .rows = gpu_rows, .owner_tokens = gpu_scratch});
  EXPECT_EQ(to_dense<int64_t>(gpu_sent.download()).values, to_dense<int64_t>(sent).values);
  int64_t total = 0;
  for (int64_t r = 0; r < ranks; ++r) total += sent->data<int64_t>()[r];
  const TestTensor found_tokens = gpu_tokens.download(), found_rows = gpu_rows.download();
  for (int64_t r = 0; r < total; ++r) {
    ASSERT_EQ(found_tokens->data<int32_t>()[r], tokens->data<int32_t>()[r]) << "row " << r;
    const Tensor found = found_rows->middle_rows(r, 1), expected = rows->middle_rows(r, 1);
    ASSERT_EQ(std::memcmp(found.bytes(), expected.bytes(), static_cast<size_t>(c.hidden) * size_of(c.act)), 0)
        << "row " << r;
    const ChosenExperts a = format.chosen(found), b = format.chosen(expected);
    for (int64_t i = 0; i < c.top_k; ++i) {
      ASSERT_EQ(a.experts.row<int32_t>(0)[i], b.experts.row<int32_t>(0)[i]) << "row " << r;
      ASSERT_EQ(a.weights.row<float>(0)[i], b.weights.row<float>(0)[i]) << "row " << r;
    }
  }
}

TEST(GpuDispatch, RowsAndCountsAreThoseOfTheCpu) {
  for (const Case& c :
       {Case{1, 1, 1, 1, 1, 1, 1, DType::bf16}, Case{0, 4, 2, 2, 1, 8, 1, DType::f32},
        Case{9, 4, 2, 2, 1, 7, 1, DType::bf16}, Case{9, 4, 4, 2, 2, 33, 1, DType::f32},
        Case{40, 128, 8, 8, 1, 64, 1, DType::bf16}, Case{23, 128, 8, 4, 2, 30, 3, DType::bf16},
        Case{17, 3, 3, 8, 1, 16, 2, DType::f32}, Case{5, 1, 1, 1, 8, 9, 1, DType::bf16},
        Case{1300, 128, 8, 2, 1, 2048, 1, DType::bf16}, Case{2500, 16, 4, 4, 2, 256, 1, DType::bf16}})
    check_dispatch(c);
}

TEST(GpuAddReturned, AddsTheRowsThatAreThere) {
  Random random(6);
  for (const int64_t columns : {1, 65, 2049}) {
    constexpr int64_t kRows = 700, kTokens = 90;
    TestTensor returned(DType::i64, kRows, columns), sums(DType::i64, kTokens, columns);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < columns; ++c)
        returned->row<int64_t>(r)[c] = random_int(random, -1'000'000'000, 1'000'000'000);
    }
    for (int64_t r = 0; r < kTokens; ++r) std::fill_n(sums->row<int64_t>(r), columns, r);
    const TestTensor tokens = integers(random, 1, kRows, kTokens - 1);
    const TestTensor counts = vector_tensor(std::vector<int64_t>{300, 0, 250});
    const GpuTensor gpu_returned(returned), gpu_tokens(tokens), gpu_counts(counts), gpu_sums(sums);
    add_returned(queue(), gpu_returned, gpu_tokens, gpu_counts, gpu_sums);
    chorale::add_returned(cpu_stream(), returned->first_rows(550), tokens->first_columns(550), counts, sums);
    EXPECT_EQ(to_dense<int64_t>(gpu_sums.download()).values, to_dense<int64_t>(sums).values);
  }
}

TEST(GpuSortByExpert, TokensThatAreNotThereHaveNoRows) {
  Random random(8);
  const TestTensor experts = integers(random, 900, 4, 15);
  const TestTensor weights(DType::f32, random_matrix(random, 900, 4, DType::f32));
  const GpuTensor gpu_experts(experts), gpu_weights(weights);
  const GpuTensor offsets(DType::i32, 1, 17), active(DType::i32, 1, 17), tokens(DType::i32, 1, 3600);
  const GpuTensor sorted_weights(DType::f32, 1, 3600);
  const GpuTensor counts = gpu_vector(std::vector<int64_t>{100, 0, 217});
  sort_by_expert(queue(), {gpu_experts, gpu_weights}, {offsets, active, tokens, sorted_weights}, counts);
  const TestTensor found = offsets.download();
  EXPECT_EQ(found->data<int32_t>()[16], 317 * 4);
  std::vector<int32_t> rows(17, 0);
  for (int64_t t = 0; t < 317; ++t) {
    for (int64_t i = 0; i < 4; ++i) ++rows[static_cast<size_t>(experts->row<int32_t>(t)[i]) + 1];
  }
  for (size_t e = 0; e < 16; ++e) {
    EXPECT_EQ(found->data<int32_t>()[e + 1] - found->data<int32_t>()[e], rows[e + 1]) << "expert " << e;
  }
}

}  // namespace
}  // namespace chorale::cuda
