// For models that are not ones: their logits are made on the host, and sampled as on one rank.
#pragma once

#include <cstdint>
#include <span>

#include "base/copy.h"
#include "base/thread_pool.h"
#include "engine/model_runner.h"
#include "engine/rank_sampler.h"
#include "kernels/sample.h"

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
    if (plans[0]->sampled_rows.empty()) {
      rows_ = compute(*plans[0]);
      return;
    }
    ++num_forwards_ahead;
    placed_ = *plans[0];
    place_tokens(stream_, sampler_.tokens(), host_vector(std::span(placed_.sampled_rows)),
                 host_vector(std::span(placed_.token_ids)));
    rows_ = compute(placed_);
  }
  void start_sampling(std::span<const SamplePlan* const> plans) override {
    const auto num_rows = static_cast<int64_t>(rows_.size()) / vocab_size_;
    const Tensor logits(const_cast<float*>(rows_.data()), DType::f32, num_rows, vocab_size_, vocab_size_);
    sampler_.start(stream_, logits, *plans[0]);
  }
  void collect(std::span<SampledStep> sampled) override { sampled[0] = sampler_.collect(stream_); }
  std::span<const float> logits() override { return rows_; }
  bool runs_ahead() const override { return ahead; }
  int64_t num_spare_blocks() const override { return num_spare; }

  // Set before the engine is made. What runs ahead is computed at once.
  bool ahead = false;
  int64_t num_spare = 0;
  int64_t num_forwards_ahead = 0;

 protected:
  // Logits [plan.logits_tokens.size(), vocab_size], valid until the next call.
  virtual std::span<const float> compute(const StepPlan& plan) = 0;

  const int64_t vocab_size_;

 private:
  static constexpr int64_t kMaxRows = 512;

  ThreadPool pool_{1};
  Stream stream_{pool_, InstructionSet::portable};
  RankSampler sampler_;
  StepPlan placed_;  // with the tokens that were sampled
  std::span<const float> rows_;
};

}  // namespace chorale::engine
