// A model runner without a model: a step takes the time that a function tells, on a clock of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/clock.h"
#include "engine/model_runner.h"
#include "parallel/cost_model.h"
#include "tools/simulate/time_counts.h"

namespace chorale::simulate {

// Seconds of a step; at least a nanosecond passes. Pure, so that a simulation can be repeated.
using StepSeconds = std::function<double(const parallel::StepLoad&)>;

struct RunnerShape {
  int64_t vocab_size = 0;
  int64_t block_tokens = engine::kBlockTokens;
  int64_t num_dp_groups = 1;
};

// The next token of a sequence follows from its seed and position, so that different requests with one prompt
// go on differently. Not thread-safe. Allocates nothing once it has seen its largest step.
class SimulatedRunner : public engine::ModelRunner {
 public:
  SimulatedRunner(const RunnerShape& shape, StepSeconds step_seconds);

  int64_t vocab_size() const override { return shape_.vocab_size; }
  int64_t block_tokens() const override { return shape_.block_tokens; }
  int64_t num_dp_groups() const override { return shape_.num_dp_groups; }

  void forward(std::span<const engine::StepPlan* const> plans) override;
  void start_sampling(std::span<const engine::SamplePlan* const> plans) override;
  void collect(std::span<engine::SampledStep> sampled) override;
  std::span<const float> logits() override { return {}; }

  Time now() const { return now_; }
  void set_now(Time now) { now_ = now; }
  engine::Clock clock() const;

  // Called in each forward(), before the time of the step has passed.
  std::function<void(std::span<const engine::StepPlan* const>)> on_step;

 private:
  RunnerShape shape_;
  StepSeconds step_seconds_;
  parallel::StepLoad load_;
  std::span<const engine::SamplePlan* const> sample_plans_;
  std::vector<std::vector<int32_t>> tokens_;  // [dp_size][rows]
  std::vector<int32_t> statuses_;             // all ok
  Time now_{};
};

// What a step has to compute, one group's.
parallel::GroupLoad load_of(const engine::StepPlan& plan);

}  // namespace chorale::simulate
