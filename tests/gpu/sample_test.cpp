#include "kernels/cuda/sample.h"

#include "gpu/gpu_test.h"
#include "kernels/cuda/layout.h"
#include "unit/kernels/sample_rows.h"

namespace chorale::cuda {
namespace {

using ref::SampledRow;
using ref::SampleRow;

// The rows' counts, each in a slot of its own, in another order than the rows.
class CountSlots {
 public:
  explicit CountSlots(const std::vector<SampleRow>& rows)
      : rows_(std::ssize(rows)), vocab_size_(std::ssize(rows.front().logits)), counts_(counts_of(rows)) {}
  int64_t slot_of(int64_t row) const { return rows_ - 1 - row; }
  Tensor view() const { return counts_; }
  ref::Dense<int32_t> download() const { return to_dense<int32_t>(counts_.download()); }

 private:
  GpuTensor counts_of(const std::vector<SampleRow>& rows) const {
    TestTensor counts(DType::i32, rows_, vocab_size_);
    for (int64_t r = 0; r < rows_; ++r) {
      int32_t* slot = counts->row<int32_t>(slot_of(r));
      std::fill_n(slot, vocab_size_, 0);
      // Of those that are in the output, every other one is in the prompt, too.
      for (const auto& [token, count] : rows[static_cast<size_t>(r)].counts)
        slot[token] = count == 0 || token % 2 == 0 ? count | kInPrompt : count;
    }
    return GpuTensor(counts);
  }

  int64_t rows_, vocab_size_;
  GpuTensor counts_;
};

int64_t most_alternatives(const std::vector<SampleRow>& rows) {
  int64_t most = 0;
  for (const SampleRow& row : rows) most = std::max<int64_t>(most, row.params.num_top);
  return most;
}

// What a call wrote, for each row.
struct Outputs {
  ref::Dense<int32_t> tokens, statuses, top_tokens;
  ref::Matrix logprobs;
  SampledRow row(int64_t r, const SampleParams& params) const {
    SampledRow result{static_cast<SampleStatus>(statuses.at(0, r)), tokens.at(0, r)};
    if (result.status != SampleStatus::ok || params.num_top < 0) return result;
    result.logprob = logprobs.at(r, 0);
    for (int64_t i = 0; i < top_tokens.columns && top_tokens.at(r, i) >= 0; ++i)
      result.logprobs.emplace_back(top_tokens.at(r, i), logprobs.at(r, 1 + i));
    return result;
  }
};

// All rows in one call, of which `places` are worked on at once.
std::vector<SampledRow> run(const std::vector<SampleRow>& rows, int64_t places) {
  const auto count = std::ssize(rows), vocab_size = std::ssize(rows.front().logits);
  const int64_t most = most_alternatives(rows);
  const CountSlots counts(rows);
  TestTensor logits(DType::f32, count, vocab_size), params(DType::u8, count, sizeof(SampleParams)),
      allowed(DType::i32, count, ceil_div(vocab_size, 32));
  Lists<float> bias;
  for (int64_t r = 0; r < count; ++r) {
    const SampleRow& row = rows[static_cast<size_t>(r)];
    std::copy(row.logits.begin(), row.logits.end(), logits->row<float>(r));
    SampleParams row_params = row.params;
    row_params.count_slot = static_cast<int32_t>(counts.slot_of(r));
    std::memcpy(params->row<std::byte>(r), &row_params, sizeof(SampleParams));
    auto* words = reinterpret_cast<uint32_t*>(allowed->row<int32_t>(r));
    for (size_t t = 0; t < row.allowed.size(); ++t) {
      const uint32_t bit = uint32_t{1} << (t % 32);
      words[t / 32] = row.allowed[t] ? words[t / 32] | bit : words[t / 32] & ~bit;
    }
    bias.add_row(row.bias);
  }
  const GpuTensor gpu_logits(logits), gpu_params(params), gpu_allowed(allowed);
  const GpuTensor offsets = gpu_vector(bias.offsets), bias_tokens = gpu_vector(bias.tokens),
                  biases = gpu_vector(bias.values);
  const GpuTensor scratch(DType::u8, places, sample_scratch_bytes(vocab_size));
  const GpuTensor tokens(DType::i32, 1, count), statuses(DType::i32, 1, count);
  const GpuTensor logprobs(DType::f32, count, 1 + most), top_tokens(DType::i32, count, most);
  sample(queue(),
         {.logits = gpu_logits,
          .params = gpu_params,
          .bias = {offsets, bias_tokens, biases},
          .counts = counts.view(),
          .allowed = gpu_allowed},
         scratch, {.tokens = tokens, .statuses = statuses, .logprobs = logprobs, .top_tokens = top_tokens});
  const Outputs outputs{to_dense<int32_t>(tokens.download()), to_dense<int32_t>(statuses.download()),
                        to_dense<int32_t>(top_tokens.download()), logprobs.values()};
  const ref::Dense<int32_t> counted = counts.download();
  std::vector<SampledRow> results;
  for (int64_t r = 0; r < count; ++r) {
    const SampleRow& row = rows[static_cast<size_t>(r)];
    results.push_back(outputs.row(r, row.params));
    const int32_t token = results.back().token;
    if (token < 0 || token >= vocab_size) continue;
    int32_t expected = row.params.given_token < 0 ? 1 : 0;
    for (const auto& [other, times] : row.counts) expected += other == token ? times : 0;
    EXPECT_EQ(counted.at(counts.slot_of(r), token) & ~kInPrompt, expected)
        << "what is chosen is counted, row " << r;
  }
  return results;
}

// The difference of two logarithms' last places, in float32.
bool same_logprob(float actual, float expected) {
  return actual == expected || std::fabs(actual - expected) <= 0x1p-23F * std::fabs(expected) + 1e-13F;
}

void expect_same(const SampledRow& actual, const SampledRow& expected) {
  EXPECT_EQ(actual.status, expected.status);
  EXPECT_EQ(actual.token, expected.token);
  EXPECT_TRUE(same_logprob(actual.logprob, expected.logprob)) << actual.logprob << ", " << expected.logprob;
  ASSERT_EQ(actual.logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < actual.logprobs.size(); ++i) {
    EXPECT_EQ(actual.logprobs[i].first, expected.logprobs[i].first);
    EXPECT_TRUE(same_logprob(actual.logprobs[i].second, expected.logprobs[i].second))
        << actual.logprobs[i].second << ", " << expected.logprobs[i].second;
  }
}

TEST(GpuSample, AgreesWithTheReference) {
  Random random(1);
  std::array<int, 3> seen{};  // by status
  for (const int64_t vocab_size : {1, 2, 31, 32, 33, 100, 1000, 5000}) {
    const std::vector<SampleRow> rows = random_rows(random, vocab_size > 1000 ? 60 : 300, vocab_size);
    const std::vector<SampledRow> results = run(rows, 100);
    for (size_t r = 0; r < rows.size(); ++r) {
      SCOPED_TRACE(testing::Message() << "row " << r << " of a vocabulary of " << vocab_size);
      const SampledRow expected = ref::sample(rows[r]);
      expect_same(results[r], expected);
      ++seen[static_cast<size_t>(expected.status)];
    }
  }
  for (const int count : seen) EXPECT_GT(count, 50);
}

// A real vocabulary: logits far apart, near each other, all alike, and few values that repeat.
TEST(GpuSample, LargeVocabulariesAgreeWithTheReference) {
  Random random(2);
  std::vector<SampleRow> rows = random_rows(random, 24, 151'936);
  for (size_t r = 0; r < rows.size(); ++r) {
    SampleRow& row = rows[r];
    const float deviation = std::array{3.0F, 0.01F, 0.0F, 40.0F}[r % 4];
    row.logits = random_matrix(random, 1, 151'936, DType::f32, deviation).values;
    if (r % 3 == 0)
      for (float& x : row.logits) x = std::round(x);
    if (r % 5 == 0) row.params.temperature = 0.8;
    if (r % 7 == 0) row.params.given_token = -1;
  }
  const std::vector<SampledRow> results = run(rows, 24);
  for (size_t r = 0; r < rows.size(); ++r) {
    SCOPED_TRACE(testing::Message() << "row " << r);
    expect_same(results[r], ref::sample(rows[r]));
  }
}

TEST(GpuSample, ARowDoesNotDependOnOthersOrScratch) {
  Random random(3);
  const std::vector<SampleRow> rows = random_rows(random, 40, 3000);
  std::vector<SampledRow> alone;
  for (const SampleRow& row : rows) alone.push_back(run({row}, 1).front());
  for (const int64_t places : {1, 3, 64}) {
    const std::vector<SampledRow> together = run(rows, places);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(together[r].token, alone[r].token);
      EXPECT_TRUE(same_bits(together[r].logprob, alone[r].logprob));
      EXPECT_EQ(together[r].logprobs, alone[r].logprobs);
    }
  }
}

TEST(GpuSample, CountsAreOfPromptAndOutput) {
  const GpuTensor counts(DType::i32, 1, 4);
  clear_counts(queue(), counts);
  const std::vector<int32_t> prompt{1, 1, 2}, output{2, 3, 3};
  count_tokens(queue(), gpu_vector(output), false, counts);
  count_tokens(queue(), gpu_vector(prompt), true, counts);
  count_tokens(queue(), gpu_vector(output), false, counts);
  EXPECT_THAT(to_dense<int32_t>(counts.download()).values,
              testing::ElementsAre(0, kInPrompt, kInPrompt + 2, 4));
  clear_counts(queue(), counts);
  EXPECT_THAT(to_dense<int32_t>(counts.download()).values, testing::Each(0));
}

TEST(GpuPlaceTokens, TakesSampledTokensWhereARowIsNamed) {
  Random random(7);
  for (const int64_t size : {1, 5, 256, 257, 3000}) {
    std::vector<int32_t> sampled, rows, ids;
    for (int i = 0; i < 300; ++i) sampled.push_back(static_cast<int32_t>(random_int(random, -1, 150'000)));
    for (int64_t t = 0; t < size; ++t) {
      rows.push_back(static_cast<int32_t>(random_int(random, -1, 299)));
      ids.push_back(static_cast<int32_t>(random_int(random, 0, 150'000)));
    }
    const GpuTensor token_ids = gpu_vector(ids);
    place_tokens(queue(), gpu_vector(sampled), gpu_vector(rows), token_ids);
    ref::place_tokens(sampled, rows, ids);
    EXPECT_EQ(to_dense<int32_t>(token_ids.download()).values, ids);
  }
}

TEST(GpuSample, NoRowsAreNoWork) {
  sample(queue(), {}, {}, {});
}

}  // namespace
}  // namespace chorale::cuda
