// Routed rows for the tests of the expert products.
#pragma once

#include <numeric>

#include "kernels/expert_matmul.h"
#include "kernels/ref/route.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {

// Each token takes top_k different experts out of `allowed`, with random weights.
inline std::vector<ref::ExpertRow> random_rows(Random& random, int64_t tokens, int64_t top_k,
                                               std::vector<int32_t> allowed) {
  ref::Dense<int32_t> experts(tokens, top_k);
  ref::Matrix weights(tokens, top_k);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (int64_t t = 0; t < tokens; ++t) {
    std::shuffle(allowed.begin(), allowed.end(), random);
    for (int64_t i = 0; i < top_k; ++i) {
      experts.at(t, i) = allowed[static_cast<size_t>(i)];
      weights.at(t, i) = uniform(random);
    }
  }
  return ref::sort_by_expert(experts, weights);
}
inline std::vector<int32_t> first_experts(int64_t count) {
  std::vector<int32_t> experts(static_cast<size_t>(count));
  std::iota(experts.begin(), experts.end(), 0);
  return experts;
}
// One expert that takes every row with weight 1.
inline std::vector<ref::ExpertRow> dense_rows(int64_t tokens) {
  std::vector<ref::ExpertRow> rows;
  for (int64_t t = 0; t < tokens; ++t) rows.push_back({t, 0, 1.0F});
  return rows;
}

// Sorted rows as the tensors that ops take.
class TestRows {
 public:
  TestRows(const std::vector<ref::ExpertRow>& rows, int64_t num_experts)
      : offsets_(DType::i32, 1, num_experts + 1),
        active_(DType::i32, 1, num_experts + 1),
        tokens_(DType::i32, 1, static_cast<int64_t>(rows.size())),
        weights_(DType::f32, 1, static_cast<int64_t>(rows.size())) {
    auto* offsets = offsets_->data<int32_t>();
    auto* active = active_->data<int32_t>();
    std::fill_n(offsets, num_experts + 1, 0);
    active[0] = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      ++offsets[rows[r].expert + 1];
      tokens_->data<int32_t>()[r] = static_cast<int32_t>(rows[r].token);
      weights_->data<float>()[r] = rows[r].weight;
    }
    for (int64_t e = 0; e < num_experts; ++e) {
      if (offsets[e + 1] > 0) active[++active[0]] = static_cast<int32_t>(e);
      offsets[e + 1] += offsets[e];
    }
  }
  ExpertRows view() const { return {offsets_, active_, tokens_, weights_}; }

 private:
  TestTensor offsets_, active_, tokens_, weights_;
};

// The matrices of all experts, packed alike.
class TestExperts {
 public:
  void add(TestWeights packed) {
    matrices_.push_back(std::move(packed));
    data_.push_back(matrices_.back().view().data);
  }
  ExpertMatrices view() const { return {matrices_[0].layout, data_}; }
  // The same chunks of every expert; the slice borrows `storage`.
  ExpertMatrices slice(int64_t first, int64_t count, std::vector<const std::byte*>& storage) const {
    ExpertMatrices sliced;
    storage.clear();
    for (const TestWeights& m : matrices_) {
      const WeightMatrix part = slice_chunks(current_backend(), m.view(), first, count);
      sliced.layout = part.layout;
      storage.push_back(part.data);
    }
    sliced.data = storage;
    return sliced;
  }

 private:
  std::vector<TestWeights> matrices_;
  std::vector<const std::byte*> data_;
};

}  // namespace chorale
