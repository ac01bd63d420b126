#include "kernels/route.h"

#include <limits>
#include <set>

#include "gpu/gpu_test.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/ref/route.h"

namespace chorale::cuda {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Chosen {
  GpuTensor experts;
  GpuTensor weights;
  Chosen(int64_t tokens, int64_t top_k)
      : experts(DType::i32, tokens, top_k), weights(DType::f32, tokens, top_k) {}
  ChosenExperts view() const { return {experts, weights}; }
};

Chosen choose(const ref::Matrix& logits, int64_t top_k, bool normalize) {
  Chosen chosen(logits.rows, top_k);
  choose_experts(queue(), GpuTensor(DType::f32, logits), {top_k, normalize}, chosen.view());
  return chosen;
}
ref::Matrix one_row(std::vector<float> values) {
  ref::Matrix m(1, static_cast<int64_t>(values.size()));
  m.values = std::move(values);
  return m;
}

// Experts by equality. Both compute weights in double; the op rounds each to float32, and when it normalizes
// divides by the sum of the rounded ones and rounds again. A weight may be subnormal in float32, off by the
// least unit.
void check(const ref::Matrix& logits, int64_t top_k) {
  for (bool normalize : {false, true}) {
    const ref::Choice expected = ref::choose_experts(logits, top_k, normalize);
    ref::Dense<double> tolerance = expected.weights;
    for (double& t : tolerance.values) t = t * 4 * kFloatRoundoff + 0x1p-149;
    const Chosen chosen = choose(logits, top_k, normalize);
    EXPECT_EQ(to_dense<int32_t>(chosen.experts.download()).values, expected.experts.values);
    expect_within(chosen.weights.values(), expected.weights, tolerance);
  }
}

TEST(GpuChooseExperts, AgreesWithTheReference) {
  Random random(1);
  for (int64_t num_experts : {1, 2, 7, 32, 33, 60, 128, 129, 256, 257, 512, 1024}) {
    for (int64_t top_k : {int64_t{1}, int64_t{2}, int64_t{8}, int64_t{32}}) {
      if (top_k > num_experts) continue;
      SCOPED_TRACE(testing::Message() << top_k << " of " << num_experts);
      check(random_matrix(random, random_int(random, 1, 40), num_experts, DType::f32, 2), top_k);
      check(random_matrix(random, 9, num_experts, DType::f32, 50), top_k);
    }
  }
}

TEST(GpuChooseExperts, OfEqualLogitsTheLowerExpertComesFirst) {
  Random random(2);
  for (int64_t num_experts : {16, 128, 200}) {
    for (int i = 0; i < 20; ++i) {
      ref::Matrix logits(3, num_experts);
      for (float& x : logits.values) x = static_cast<float>(random_int(random, -1, 2));
      check(logits, random_int(random, 1, 16));
    }
  }
  EXPECT_THAT(to_dense<int32_t>(choose(one_row({0.0F, -0.0F, 0.0F}), 3, false).experts.download()).values,
              testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(to_dense<int32_t>(choose(one_row({-0.0F, 0.0F, -1.0F}), 3, false).experts.download()).values,
              testing::ElementsAre(0, 1, 2));
}

TEST(GpuChooseExperts, InfinitelyUnlikelyExpertsHaveNoWeight) {
  const Chosen chosen = choose(one_row({-kInf, 2, -kInf, 2}), 3, true);
  EXPECT_THAT(to_dense<int32_t>(chosen.experts.download()).values, testing::ElementsAre(1, 3, 0));
  EXPECT_THAT(chosen.weights.values().values, testing::ElementsAre(0.5F, 0.5F, 0.0F));
}

TEST(GpuChooseExperts, OneExpertTakesAllWeight) {
  for (float logit : {0.0F, -1000.0F, 3e38F}) {
    const Chosen chosen = choose(one_row({logit}), 1, true);
    EXPECT_EQ(to_dense<int32_t>(chosen.experts.download()).values[0], 0);
    EXPECT_EQ(chosen.weights.values().values[0], 1.0F);
  }
}

TEST(GpuChooseExperts, ANanRowGetsSomeExpertsWithNanWeights) {
  Random random(3);
  for (bool normalize : {false, true}) {
    for (int64_t nan_column : {0, 5, 11}) {
      ref::Matrix logits = random_matrix(random, 4, 12, DType::f32);
      const Chosen clean = choose(logits, 5, normalize);
      logits.at(2, nan_column) = kNan;
      if (nan_column == 5) std::fill_n(logits.values.begin() + 2 * 12, 12, kNan);
      const Chosen chosen = choose(logits, 5, normalize);
      const TestTensor experts = chosen.experts.download();
      const TestTensor weights = chosen.weights.download();
      std::set<int32_t> distinct;
      for (int64_t i = 0; i < 5; ++i) {
        EXPECT_TRUE(std::isnan(weights->row<float>(2)[i]));
        distinct.insert(experts->row<int32_t>(2)[i]);
      }
      EXPECT_EQ(distinct.size(), 5U);
      EXPECT_GE(*distinct.begin(), 0);
      EXPECT_LT(*distinct.rbegin(), 12);
      for (int64_t t : {0, 1, 3}) {
        expect_same_row(experts, t, clean.experts.download(), t);
        expect_same_row(weights, t, clean.weights.download(), t);
      }
    }
  }
}

TEST(GpuChooseExperts, ARowDoesNotDependOnOtherRows) {
  Random random(4);
  const ref::Matrix logits = random_matrix(random, 31, 128, DType::f32);
  const Chosen whole = choose(logits, 8, true);
  const TestTensor experts = whole.experts.download();
  const TestTensor weights = whole.weights.download();
  for (int64_t t = 0; t < 31; ++t) {
    const Chosen alone = choose(row_of(logits, t), 8, true);
    expect_same_row(alone.experts.download(), 0, experts, t);
    expect_same_row(alone.weights.download(), 0, weights, t);
  }
}

// ---- sort_by_expert ----

struct Sorted {
  GpuTensor offsets, active, tokens, weights;
  Sorted(int64_t num_experts, int64_t pairs)
      : offsets(DType::i32, 1, num_experts + 1),
        active(DType::i32, 1, num_experts + 1),
        tokens(DType::i32, 1, pairs),
        weights(DType::f32, 1, pairs) {}
  ExpertRows view() const { return {offsets, active, tokens, weights}; }
};

void expect_sorted(const Sorted& sorted, const std::vector<ref::ExpertRow>& expected, int64_t num_experts) {
  const ref::Dense<int32_t> offsets = to_dense<int32_t>(sorted.offsets.download());
  const ref::Dense<int32_t> tokens = to_dense<int32_t>(sorted.tokens.download());
  const ref::Matrix weights = sorted.weights.values();
  std::vector<int32_t> active;
  for (int64_t e = 0; e < num_experts; ++e) {
    if (offsets.at(0, e + 1) > offsets.at(0, e)) active.push_back(static_cast<int32_t>(e));
    for (int64_t r = offsets.at(0, e); r < offsets.at(0, e + 1); ++r) {
      ASSERT_LT(r, std::ssize(expected));
      const ref::ExpertRow& row = expected[static_cast<size_t>(r)];
      ASSERT_EQ(row.expert, e);
      ASSERT_EQ(row.token, tokens.at(0, r));
      ASSERT_EQ(row.weight, std::isnan(weights.at(0, r)) ? -1 : weights.at(0, r));
    }
  }
  EXPECT_EQ(offsets.at(0, 0), 0);
  EXPECT_EQ(offsets.at(0, num_experts), std::ssize(expected));
  const std::vector<int32_t> found = to_dense<int32_t>(sorted.active.download()).values;
  ASSERT_EQ(found[0], std::ssize(active));
  EXPECT_EQ(std::vector<int32_t>(found.begin() + 1, found.begin() + 1 + found[0]), active);
}

// `elsewhere`: one in so many pairs is an expert of another rank.
void check_sort(Random& random, int64_t tokens, int64_t top_k, int64_t num_experts, int64_t room,
                int64_t elsewhere = 0) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << top_k << " of " << num_experts);
  const ref::Matrix logits = random_matrix(random, tokens, num_experts, DType::f32);
  ref::Dense<int32_t> experts = ref::choose_experts(logits, top_k, false).experts;
  const ref::Matrix weights = random_matrix(random, tokens, top_k, DType::f32);
  if (elsewhere > 0) {
    for (int32_t& e : experts.values) e = random_int(random, 1, elsewhere) == 1 ? -1 : e;
  }
  TestTensor host(DType::i32, tokens, top_k);
  for (int64_t t = 0; t < tokens; ++t)
    std::copy_n(experts.values.begin() + t * top_k, top_k, host->row<int32_t>(t));
  std::vector<ref::ExpertRow> expected = ref::sort_by_expert(experts, weights);
  std::erase_if(expected, [](const ref::ExpertRow& row) { return row.expert < 0; });
  const Sorted sorted(num_experts, tokens * top_k + room);
  const GpuTensor experts_tensor(host);
  const GpuTensor weights_tensor(DType::f32, weights);
  sort_by_expert(queue(), {experts_tensor, weights_tensor}, sorted.view());
  expect_sorted(sorted, expected, num_experts);

  const GpuTensor counts(vector_tensor(std::vector<int64_t>(static_cast<size_t>(num_experts), 5)));
  count_experts(queue(), experts_tensor, counts);
  std::vector<int64_t> expected_counts(static_cast<size_t>(num_experts), 5);
  for (const ref::ExpertRow& row : expected) ++expected_counts[static_cast<size_t>(row.expert)];
  EXPECT_EQ(to_dense<int64_t>(counts.download()).values, expected_counts);
}

TEST(GpuSortByExpert, AgreesWithTheReference) {
  Random random(5);
  check_sort(random, 1, 1, 1, 0);
  check_sort(random, 20, 1, 1, 5);
  check_sort(random, 1, 8, 128, 0);
  check_sort(random, 3, 2, 128, 7);
  check_sort(random, 97, 8, 128, 0);
  check_sort(random, 40, 6, 6, 0);
  check_sort(random, 300, 8, 128, 0, 2);
  check_sort(random, 5000, 8, 128, 0);
  check_sort(random, 700, 3, 1024, 0);
  check_sort(random, 50, 2, 8, 0, 1);
  for (int i = 0; i < 30; ++i) {
    const int64_t num_experts = random_int(random, 1, 300);
    check_sort(random, random_int(random, 1, 600), random_int(random, 1, std::min<int64_t>(8, num_experts)),
               num_experts, random_int(random, 0, 3), random_int(random, 0, 4));
  }
}

TEST(GpuSortByExpert, AStepWithoutTokensHasNoRows) {
  const Chosen chosen(0, 2);
  const Sorted sorted(6, 0);
  sort_by_expert(queue(), chosen.view(), sorted.view());
  EXPECT_THAT(to_dense<int32_t>(sorted.offsets.download()).values, testing::Each(0));
  EXPECT_EQ(to_dense<int32_t>(sorted.active.download()).values[0], 0);
  choose_experts(queue(), GpuTensor(DType::f32, ref::Matrix(0, 6)), {2, true}, chosen.view());
  count_experts(queue(), chosen.experts, gpu_vector<int64_t>({0, 0, 0, 0, 0, 0}));
  queue().synchronize();
}

// In one kernel and in three.
TEST(GpuRoute, IsTheThreeOpsInOne) {
  Random random(6);
  for (int64_t num_experts : {1, 3, 8, 32, 100, 128, 129, 256, 300}) {
    for (int64_t tokens : {0, 1, 2, 7, 31, 32, 33, 100}) {
      const int64_t top_k = random_int(random, 1, std::min<int64_t>(num_experts, 10));
      const bool normalize = random_int(random, 0, 1) == 1;
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << top_k << " of " << num_experts);
      ref::Matrix logits = random_matrix(random, tokens, num_experts, DType::f32, 2);
      if (tokens > 5) logits.at(5, 0) = kNan;
      const Chosen expected = choose(logits, top_k, normalize);
      const ref::Dense<int32_t> experts = to_dense<int32_t>(expected.experts.download());

      const Chosen chosen(tokens, top_k);
      const Sorted sorted(num_experts, tokens * top_k);
      const GpuTensor counts(vector_tensor(std::vector<int64_t>(static_cast<size_t>(num_experts), 3)));
      const GpuTensor places(DType::i32, tokens, top_k);
      ExpertRows view = sorted.view();
      view.places = places;
      route(queue(), GpuTensor(DType::f32, logits), {top_k, normalize}, chosen.view(), view, counts);
      expect_same_bits(chosen.experts.download(), expected.experts.download());
      expect_same_bits(chosen.weights.download(), expected.weights.download());
      ref::Matrix weights = expected.weights.values();
      ref::Matrix finite = weights;
      for (float& w : finite.values) w = std::isnan(w) ? -1 : w;
      const std::vector<ref::ExpertRow> rows = ref::sort_by_expert(experts, finite);
      expect_sorted(sorted, rows, num_experts);
      std::vector<int64_t> expected_counts(static_cast<size_t>(num_experts), 3);
      for (const ref::ExpertRow& row : rows) ++expected_counts[static_cast<size_t>(row.expert)];
      EXPECT_EQ(to_dense<int64_t>(counts.download()).values, expected_counts);
      const ref::Dense<int32_t> found = to_dense<int32_t>(places.download());
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < top_k; ++i) {
          const int32_t row = found.at(t, i);
          ASSERT_TRUE(row >= 0 && row < std::ssize(rows));
          EXPECT_EQ(rows[static_cast<size_t>(row)].token, t);
          EXPECT_EQ(rows[static_cast<size_t>(row)].expert, experts.at(t, i));
        }
      }
    }
  }
}

TEST(GpuRoute, CountsAreOptional) {
  Random random(7);
  const Chosen chosen(3, 2);
  const Sorted sorted(8, 6);
  route(queue(), GpuTensor(DType::f32, random_matrix(random, 3, 8, DType::f32)), {2, true}, chosen.view(),
        sorted.view(), {});
  EXPECT_EQ(to_dense<int32_t>(sorted.offsets.download()).values[8], 6);
}

TEST(GpuCountTokens, AddsToTheOneExpert) {
  const GpuTensor counts = gpu_vector<int64_t>({7});
  count_tokens(queue(), int64_t{1} << 40, counts);
  count_tokens(queue(), 3, counts);
  EXPECT_EQ(to_dense<int64_t>(counts.download()).values[0], (int64_t{1} << 40) + 10);
}

}  // namespace
}  // namespace chorale::cuda
