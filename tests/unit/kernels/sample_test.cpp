#include "kernels/sample.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/math.h"
#include "unit/kernels/sample_rows.h"

namespace chorale {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using ref::SampledRow;
using ref::SampleRow;

template <typename T>
struct ListTensors {
  TestTensor offsets, tokens, values;
  explicit ListTensors(const Lists<T>& lists)
      : offsets(vector_tensor(lists.offsets)),
        tokens(vector_tensor(lists.tokens)),
        values(vector_tensor(lists.values)) {}
  SparseRows view() const { return {offsets, tokens, values}; }
};

// The counts of each row in a slot of its own, in another order than the rows, as count_tokens() makes them.
class CountSlots {
 public:
  CountSlots(const Stream& stream, const std::vector<SampleRow>& rows)
      : last_(std::ssize(rows) - 1), counts_(DType::i32, std::ssize(rows), std::ssize(rows.front().logits)) {
    for (const SampleRow& row : rows) {
      const Tensor slot = view().middle_rows(slot_of(next_++), 1);
      clear_counts(stream, slot);
      std::vector<int32_t> prompt, output;
      for (const auto& [token, count] : row.counts) {
        // Of those that are in the output, every other one is in the prompt, too.
        if (count == 0 || token % 2 == 0) prompt.insert(prompt.end(), 2, token);
        output.insert(output.end(), static_cast<size_t>(count), token);
      }
      count_tokens(stream, vector_tensor(prompt), true, slot);
      count_tokens(stream, vector_tensor(output), false, slot);
    }
  }
  int64_t slot_of(int64_t row) const { return last_ - row; }
  const Tensor& view() const { return counts_; }
  // How often a token is in the output of a row.
  int32_t count(int64_t row, int32_t token) const {
    return counts_->row<int32_t>(slot_of(row))[token] & ~kInPrompt;
  }

 private:
  int64_t next_ = 0;
  int64_t last_;
  TestTensor counts_;
};

int32_t count_of(const SampleRow& row, int32_t token) {
  int32_t total = 0;
  for (const auto& [counted, count] : row.counts) total += counted == token ? count : 0;
  return total;
}

int64_t most_alternatives(const std::vector<SampleRow>& rows) {
  int64_t most = 0;
  for (const SampleRow& row : rows) most = std::max<int64_t>(most, row.params.num_top);
  return most;
}

// All rows in one call, of which `places` are worked on at once.
std::vector<SampledRow> run(const Stream& stream, const std::vector<SampleRow>& rows, int64_t places) {
  const auto count = static_cast<int64_t>(rows.size());
  const auto vocab_size = static_cast<int64_t>(rows.front().logits.size());
  const int64_t most = most_alternatives(rows);
  const TestTensor logits(DType::f32, count, vocab_size);
  const TestTensor params(DType::u8, count, sizeof(SampleParams));
  const TestTensor allowed(DType::i32, count, ceil_div<int64_t>(vocab_size, 32));
  Lists<float> bias;
  const CountSlots counts(stream, rows);
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
  const ListTensors<float> bias_tensors(bias);
  const TestTensor scratch(DType::u8, places, sample_scratch_bytes(vocab_size, stream.device().kind()));
  const TestTensor tokens(DType::i32, 1, count), statuses(DType::i32, 1, count);
  const TestTensor logprobs(DType::f32, count, 1 + most), top_tokens(DType::i32, count, most);
  sample(stream,
         {.logits = logits,
          .params = params,
          .bias = bias_tensors.view(),
          .counts = counts.view(),
          .allowed = allowed},
         scratch, {.tokens = tokens, .statuses = statuses, .logprobs = logprobs, .top_tokens = top_tokens});
  std::vector<SampledRow> results;
  for (int64_t r = 0; r < count; ++r) {
    SampledRow result{static_cast<SampleStatus>(statuses->data<int32_t>()[r]), tokens->data<int32_t>()[r]};
    const SampleRow& row = rows[static_cast<size_t>(r)];
    const int32_t num_top = row.params.num_top;
    if (result.token >= 0) {
      EXPECT_EQ(counts.count(r, result.token),
                count_of(row, result.token) + (row.params.given_token < 0 ? 1 : 0))
          << "what is chosen is counted, row " << r;
    }
    if (result.status == SampleStatus::ok && num_top >= 0) {
      result.logprob = logprobs->row<float>(r)[0];
      for (int64_t i = 0; i < most; ++i) {
        const int32_t token = top_tokens->row<int32_t>(r)[i];
        EXPECT_EQ(token >= 0, i < std::min<int64_t>(num_top, vocab_size)) << "row " << r << ", place " << i;
        if (token >= 0) result.logprobs.emplace_back(token, logprobs->row<float>(r)[1 + i]);
      }
    }
    results.push_back(std::move(result));
  }
  return results;
}

SampledRow run_one(const SampleRow& row) {
  return run(streams(InstructionSet::portable)[0], {row}, 1).front();
}

void expect_same(const SampledRow& actual, const SampledRow& expected) {
  EXPECT_EQ(actual.status, expected.status);
  EXPECT_EQ(actual.token, expected.token);
  EXPECT_TRUE(same_bits(actual.logprob, expected.logprob)) << actual.logprob << ", " << expected.logprob;
  ASSERT_EQ(actual.logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < actual.logprobs.size(); ++i) {
    EXPECT_EQ(actual.logprobs[i].first, expected.logprobs[i].first);
    EXPECT_TRUE(same_bits(actual.logprobs[i].second, expected.logprobs[i].second));
  }
}

class Sample : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, Sample, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(Sample, HasTheBitsOfTheReference) {
  Random random(1);
  std::array<int, 3> seen{};  // by status
  for (const int64_t vocab_size : {1, 2, 31, 32, 33, 100, 1000}) {
    const std::vector<SampleRow> rows = random_rows(random, 400, vocab_size);
    const std::vector<SampledRow> results = run(streams(InstructionSet::portable)[1], rows, 3);
    for (size_t r = 0; r < rows.size(); ++r) {
      SCOPED_TRACE(testing::Message() << "row " << r << " of a vocabulary of " << vocab_size);
      const SampledRow expected = ref::sample(rows[r]);
      expect_same(results[r], expected);
      ++seen[static_cast<size_t>(expected.status)];
    }
  }
  for (const int count : seen) EXPECT_GT(count, 50);
}

TEST_P(Sample, ARowDoesNotDependOnOthersThreadsOrScratch) {
  Random random(2);
  const std::vector<SampleRow> rows = random_rows(random, 40, 500);
  std::vector<SampledRow> alone;
  for (const SampleRow& row : rows) alone.push_back(run_one(row));
  for (const Stream& stream : streams(InstructionSet::portable)) {
    for (const int64_t places : {1, 2, 3, 64}) {
      const std::vector<SampledRow> together = run(stream, rows, places);
      for (size_t r = 0; r < rows.size(); ++r) expect_same(together[r], alone[r]);
    }
  }
}

TEST_P(Sample, EqualLogitsGoToTheLowestId) {
  SampleRow row;
  row.logits = {1, 3, 3, 2, 3};
  row.params.temperature = 0;
  row.params.num_top = 4;
  const SampledRow result = run_one(row);
  EXPECT_EQ(result.token, 1);
  std::vector<int32_t> top;
  for (const auto& [token, logprob] : result.logprobs) top.push_back(token);
  EXPECT_THAT(top, testing::ElementsAre(1, 2, 4, 3));
}

TEST_P(Sample, LogProbabilitiesAreThoseOfTheRawLogits) {
  SampleRow row;
  row.logits = {std::log(0.5F), std::log(0.3F), std::log(0.2F)};
  row.params.temperature = 0;
  row.params.num_top = 1;
  row.bias = {{2, 5.0F}};
  const SampledRow result = run_one(row);
  EXPECT_EQ(result.token, 2);
  EXPECT_NEAR(result.logprob, std::log(0.2), 1e-6);
  ASSERT_EQ(result.logprobs.size(), 1U);
  EXPECT_EQ(result.logprobs[0].first, 0);
  EXPECT_NEAR(result.logprobs[0].second, std::log(0.5), 1e-6);
}

TEST_P(Sample, AGivenTokenIsTakenAndScored) {
  SampleRow row;
  row.logits = {std::log(0.5F), std::log(0.3F), std::log(0.2F)};
  row.params.given_token = 1;
  row.params.num_top = 0;
  EXPECT_EQ(run_one(row).token, 1);
  EXPECT_NEAR(run_one(row).logprob, std::log(0.3), 1e-6);
  row.logits[2] = kNan;
  EXPECT_EQ(run_one(row).status, SampleStatus::bad_logits);
  EXPECT_EQ(run_one(row).token, -1);
}

TEST_P(Sample, WhatIsForbiddenIsNotChosenAndPenaltiesCountTheOutput) {
  SampleRow row;
  row.logits = {4, 3, 2};
  row.params.temperature = 0;
  row.bias = {{0, -kInf}};
  EXPECT_EQ(run_one(row).token, 1);
  row.params.is_masked = 1;
  row.allowed = {true, false, true};
  EXPECT_EQ(run_one(row).token, 2);
  row.allowed = {true, false, false};
  EXPECT_EQ(run_one(row).status, SampleStatus::all_masked);
  row.bias.clear();
  row.params.is_masked = 0;
  row.params.frequency_penalty = 0.4;
  row.counts = {{0, 2}, {1, 0}};
  EXPECT_EQ(run_one(row).token, 0);
  row.counts = {{0, 3}, {1, 0}};
  EXPECT_EQ(run_one(row).token, 1);
  row.counts = {{0, 3}, {1, 0}, {2, 0}};
  row.params.frequency_penalty = 0;
  row.params.presence_penalty = 1.5;
  EXPECT_EQ(run_one(row).token, 1);
  row.params.presence_penalty = 0;
  row.params.repetition_penalty = 2;
  row.counts = {{0, 0}};
  EXPECT_EQ(run_one(row).token, 1);
}

TEST_P(Sample, CountsAreOfPromptAndOutput) {
  const Stream stream = streams(InstructionSet::portable)[0];
  const TestTensor counts(DType::i32, 1, 4);
  clear_counts(stream, counts);
  const std::vector<int32_t> prompt{1, 1, 2}, output{2, 3, 3}, none;
  count_tokens(stream, vector_tensor(output), false, counts);
  count_tokens(stream, vector_tensor(prompt), true, counts);
  count_tokens(stream, vector_tensor(none), true, counts);
  count_tokens(stream, vector_tensor(output), false, counts);
  EXPECT_THAT(to_dense<int32_t>(counts).values, testing::ElementsAre(0, kInPrompt, kInPrompt + 2, 4));
  clear_counts(stream, counts);
  EXPECT_THAT(to_dense<int32_t>(counts).values, testing::Each(0));
}

TEST_P(Sample, NoRowsAreNoWork) {
  sample(streams(InstructionSet::portable)[0], {}, {}, {});
}

class PlaceTokens : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, PlaceTokens, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(PlaceTokens, TakesSampledTokensWhereARowIsNamed) {
  Random random(11);
  for (const Stream& stream : streams(InstructionSet::portable)) {
    for (const int64_t size : {0, 1, 2, 40, 300}) {
      std::vector<int32_t> sampled, rows, ids;
      for (int i = 0; i < 70; ++i) sampled.push_back(static_cast<int32_t>(random() % 1000) - 1);
      for (int64_t t = 0; t < size; ++t) {
        rows.push_back(static_cast<int32_t>(random() % 71) - 1);
        ids.push_back(static_cast<int32_t>(random() % 1000));
      }
      const TestTensor token_ids = vector_tensor(ids);
      place_tokens(stream, vector_tensor(sampled), vector_tensor(rows), token_ids);
      ref::place_tokens(sampled, rows, ids);
      expect_same_bits(token_ids, vector_tensor(ids));
    }
  }
}

TEST_P(PlaceTokens, ARowWithoutATokenGivesTheFirstOne) {
  for (const Stream& stream : streams(InstructionSet::portable)) {
    const TestTensor token_ids = vector_tensor(std::vector<int32_t>{5, 6, 7});
    place_tokens(stream, vector_tensor(std::vector<int32_t>{-1, 9}),
                 vector_tensor(std::vector<int32_t>{0, -1, 1}), token_ids);
    expect_same_bits(token_ids, vector_tensor(std::vector<int32_t>{0, 6, 9}));
  }
}

}  // namespace
}  // namespace chorale
