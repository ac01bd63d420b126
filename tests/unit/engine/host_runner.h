// For models that are not ones: their logits are made on the host, and sampled as on one rank.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "engine/model_runner.h"
#include "engine/rank_sampler.h"

namespace chorale::engine {

class HostRunner : public ModelRunner {
 public:
  explicit HostRunner(int64_t vocab_size)
      : vocab_size_(vocab_size),
        sampler_({.vocab_size = vocab_size, .max_rows = kMaxRows, .max_texts = kMaxRows, .max_places = 1},
                 {}) {}

  int64_t vocab_size() const override { return vocab_size_; }

  void forward(std::span<const StepPlan* const> plans) override {
    CHORALE_CHECK(plans.size() == 1);
    rows_ = compute(*plans[0]);
  }
  void sample(std::span<const SamplePlan* const> plans, std::span<SampledStep> sampled) override {
    const auto num_rows = static_cast<int64_t>(rows_.size()) / vocab_size_;
    const Tensor logits(const_cast<float*>(rows_.data()), DType::f32, num_rows, vocab_size_, vocab_size_);
    sampled[0] = sampler_.sample(stream_, logits, *plans[0]);
  }
  std::span<const float> logits() override { return rows_; }

 protected:
  // Logits [plan.logits_tokens.size(), vocab_size], valid until the next call.
  virtual std::span<const float> compute(const StepPlan& plan) = 0;

  const int64_t vocab_size_;

 private:
  static constexpr int64_t kMaxRows = 512;

  ThreadPool pool_{1};
  Stream stream_{pool_, InstructionSet::portable};
  RankSampler sampler_;
  std::span<const float> rows_;
};

}  // namespace chorale::engine
