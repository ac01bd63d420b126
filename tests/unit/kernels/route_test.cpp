#include "kernels/route.h"

#include <limits>
#include <set>

#include "kernels/ref/route.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Chosen {
  TestTensor experts;
  TestTensor weights;
  Chosen(int64_t tokens, int64_t top_k)
      : experts(DType::i32, tokens, top_k), weights(DType::f32, tokens, top_k) {}
  ChosenExperts view() const { return {experts, weights}; }
};

Chosen choose(const Stream& stream, const ref::Matrix& logits, int64_t top_k, bool normalize) {
  Chosen chosen(logits.rows, top_k);
  const TestTensor input(DType::f32, logits);
  choose_experts(stream, input, {top_k, normalize}, chosen.view());
  return chosen;
}
Chosen choose(const ref::Matrix& logits, int64_t top_k, bool normalize = false) {
  return choose(streams(InstructionSet::portable)[0], logits, top_k, normalize);
}
ref::Matrix one_row(std::vector<float> values) {
  ref::Matrix m(1, static_cast<int64_t>(values.size()));
  m.values = std::move(values);
  return m;
}

// Both compute in double; the op rounds each weight to float32, and when it normalizes divides by the sum of
// the rounded ones and rounds again. The sum of weights may be subnormal in float32, off by the least unit.
void check(const ref::Matrix& logits, int64_t top_k) {
  for (bool normalize : {false, true}) {
    const ref::Choice expected = ref::choose_experts(logits, top_k, normalize);
    ref::Dense<double> tolerance = expected.weights;
    for (double& t : tolerance.values) t = t * 4 * kFloatRoundoff + 0x1p-149;
    for (const Stream& stream : streams(InstructionSet::portable)) {
      const Chosen chosen = choose(stream, logits, top_k, normalize);
      EXPECT_EQ(to_dense<int32_t>(chosen.experts).values, expected.experts.values);
      expect_within(chosen.weights.values(), expected.weights, tolerance);
    }
  }
}

class ChooseExperts : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, ChooseExperts, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(ChooseExperts, AgreesWithTheReference) {
  Random random(1);
  for (int64_t num_experts : {1, 2, 7, 60, 128, 512}) {
    for (int64_t top_k : {int64_t{1}, int64_t{2}, int64_t{8}, num_experts}) {
      if (top_k > num_experts || top_k > 60) continue;
      SCOPED_TRACE(testing::Message() << top_k << " of " << num_experts);
      check(random_matrix(random, 9, num_experts, DType::f32, 2), top_k);
      check(random_matrix(random, 9, num_experts, DType::f32, 50), top_k);
    }
  }
}

TEST_P(ChooseExperts, OfEqualLogitsTheLowerExpertComesFirst) {
  Random random(2);
  for (int i = 0; i < 50; ++i) {
    ref::Matrix logits(3, 16);
    for (float& x : logits.values) x = static_cast<float>(random_int(random, 0, 3));
    check(logits, random_int(random, 1, 16));
  }
  EXPECT_THAT(to_dense<int32_t>(choose(ref::Matrix(1, 9), 4).experts).values,
              testing::ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(to_dense<int32_t>(choose(one_row({0.0F, -0.0F, 0.0F}), 3).experts).values,
              testing::ElementsAre(0, 1, 2));
}

TEST_P(ChooseExperts, InfinitelyUnlikelyExpertsHaveNoWeight) {
  const Chosen chosen = choose(one_row({-kInf, 2, -kInf, 2}), 3, true);
  EXPECT_THAT(to_dense<int32_t>(chosen.experts).values, testing::ElementsAre(1, 3, 0));
  EXPECT_THAT(chosen.weights.values().values, testing::ElementsAre(0.5F, 0.5F, 0.0F));
}

TEST_P(ChooseExperts, OneExpertTakesAllWeight) {
  for (float logit : {0.0F, -1000.0F, 3e38F}) {
    const Chosen chosen = choose(one_row({logit}), 1, true);
    EXPECT_EQ(chosen.experts->row<int32_t>(0)[0], 0);
    EXPECT_EQ(chosen.weights->row<float>(0)[0], 1.0F);
  }
}

TEST_P(ChooseExperts, ANanRowGetsSomeExpertsWithNanWeights) {
  Random random(3);
  for (bool normalize : {false, true}) {
    for (const Stream& stream : streams(InstructionSet::portable)) {
      for (int64_t nan_column : {0, 5, 11}) {
        ref::Matrix logits = random_matrix(random, 4, 12, DType::f32);
        const Chosen clean = choose(logits, 5, normalize);
        logits.at(2, nan_column) = kNan;
        if (nan_column == 5) std::fill_n(logits.values.begin() + 2 * 12, 12, kNan);
        const Chosen chosen = choose(stream, logits, 5, normalize);
        std::set<int32_t> distinct;
        for (int64_t i = 0; i < 5; ++i) {
          EXPECT_TRUE(std::isnan(chosen.weights->row<float>(2)[i]));
          distinct.insert(chosen.experts->row<int32_t>(2)[i]);
        }
        EXPECT_EQ(distinct.size(), 5U);
        EXPECT_GE(*distinct.begin(), 0);
        EXPECT_LT(*distinct.rbegin(), 12);
        for (int64_t t : {0, 1, 3}) {
          expect_same_row(chosen.experts, t, clean.experts, t);
          expect_same_row(chosen.weights, t, clean.weights, t);
        }
      }
    }
  }
}

TEST_P(ChooseExperts, ARowDoesNotDependOnOtherRowsOrThreads) {
  Random random(4);
  const ref::Matrix logits = random_matrix(random, 31, 40, DType::f32);
  const Chosen whole = choose(streams(InstructionSet::portable)[1], logits, 6, true);
  for (int64_t t = 0; t < 31; ++t) {
    const Chosen alone = choose(row_of(logits, t), 6, true);
    expect_same_row(alone.experts, 0, whole.experts, t);
    expect_same_row(alone.weights, 0, whole.weights, t);
  }
}

// ---- sort_by_expert ----

struct Sorted {
  TestTensor offsets, active, tokens, weights;
  Sorted(int64_t num_experts, int64_t pairs)
      : offsets(DType::i32, 1, num_experts + 1),
        active(DType::i32, 1, num_experts + 1),
        tokens(DType::i32, 1, pairs),
        weights(DType::f32, 1, pairs) {}
  ExpertRows view() const { return {offsets, active, tokens, weights}; }
};

void check_sort(Random& random, int64_t tokens, int64_t top_k, int64_t num_experts, int64_t room) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << top_k << " of " << num_experts);
  const Chosen chosen = choose(random_matrix(random, tokens, num_experts, DType::f32), top_k);
  const Sorted sorted(num_experts, tokens * top_k + room);
  for (const Stream& stream : streams(InstructionSet::portable)) {
    sort_by_expert(stream, chosen.view(), sorted.view());
    const std::vector<ref::ExpertRow> expected =
        ref::sort_by_expert(to_dense<int32_t>(chosen.experts), chosen.weights.values());
    const auto* offsets = sorted.offsets->data<int32_t>();
    std::vector<int32_t> active;
    for (int64_t e = 0; e < num_experts; ++e) {
      if (offsets[e + 1] > offsets[e]) active.push_back(static_cast<int32_t>(e));
      for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r) {
        ASSERT_LT(r, std::ssize(expected));
        const ref::ExpertRow& row = expected[static_cast<size_t>(r)];
        EXPECT_EQ(row.expert, e);
        EXPECT_EQ(row.token, sorted.tokens->data<int32_t>()[r]);
        EXPECT_EQ(row.weight, sorted.weights->data<float>()[r]);
      }
    }
    EXPECT_EQ(offsets[0], 0);
    EXPECT_EQ(offsets[num_experts], tokens * top_k);
    const auto* found = sorted.active->data<int32_t>();
    EXPECT_EQ(std::vector<int32_t>(found + 1, found + 1 + found[0]), active);
  }
}

class SortByExpert : public AnyDeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, SortByExpert, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(SortByExpert, AgreesWithTheReference) {
  Random random(5);
  check_sort(random, 1, 1, 1, 0);
  check_sort(random, 20, 1, 1, 5);
  check_sort(random, 1, 8, 128, 0);
  check_sort(random, 3, 2, 128, 7);
  check_sort(random, 97, 8, 128, 0);
  check_sort(random, 40, 6, 6, 0);
  for (int i = 0; i < 20; ++i) {
    const int64_t num_experts = random_int(random, 1, 60);
    check_sort(random, random_int(random, 1, 50), random_int(random, 1, std::min<int64_t>(8, num_experts)),
               num_experts, random_int(random, 0, 3));
  }
}

TEST_P(SortByExpert, TokensThatAreNotThereHaveNoRows) {
  Random random(8);
  const Chosen chosen = choose(random_matrix(random, 9, 12, DType::f32), 3);
  for (const Stream& stream : streams(InstructionSet::portable)) {
    const Sorted sorted(12, 27), expected(12, 27);
    const TestTensor counts = vector_tensor(std::vector<int64_t>{2, 0, 3});
    sort_by_expert(stream, chosen.view(), sorted.view(), counts);
    const ChosenExperts all = chosen.view();
    sort_by_expert(stream, {all.experts.first_rows(5), all.weights.first_rows(5)}, expected.view());
    EXPECT_EQ(to_dense<int32_t>(sorted.offsets).values, to_dense<int32_t>(expected.offsets).values);
    EXPECT_EQ(to_dense<int32_t>(sorted.active).values, to_dense<int32_t>(expected.active).values);
    EXPECT_EQ(to_dense<int32_t>(sorted.tokens).values, to_dense<int32_t>(expected.tokens).values);
    for (int64_t r = 0; r < 15; ++r)
      EXPECT_EQ(sorted.weights->data<float>()[r], expected.weights->data<float>()[r]);
  }
}

TEST_P(SortByExpert, AStepWithoutTokensHasNoRows) {
  for (const Stream& stream : streams(InstructionSet::portable)) {
    const Chosen chosen = choose(stream, ref::Matrix(0, 6), 2, true);
    const Sorted sorted(6, 0);
    sort_by_expert(stream, chosen.view(), sorted.view());
    EXPECT_THAT(to_dense<int32_t>(sorted.offsets).values, testing::Each(0));
    EXPECT_EQ(sorted.active->data<int32_t>()[0], 0);
  }
}

}  // namespace
}  // namespace chorale
