#include "tools/simulate/simulated_runner.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace chorale::simulate {
namespace {

constexpr double kNanoseconds = 1e9;

// Many a second are needed, so they are not those of base/random.h.
int32_t next_token(const SampleParams& params, int64_t vocab_size) {
  uint64_t word = (params.seed ^ (static_cast<uint64_t>(params.position) << 32)) * 0x9e3779b97f4a7c15;
  word = (word ^ (word >> 29)) * 0xbf58476d1ce4e5b9;
  return static_cast<int32_t>(((word >> 32) * static_cast<uint64_t>(vocab_size)) >> 32);
}

}  // namespace

parallel::GroupLoad load_of(const engine::StepPlan& plan) {
  parallel::GroupLoad load;
  load.tokens = plan.num_tokens();
  load.sequences = std::ssize(plan.chunks);
  load.logits_rows = std::ssize(plan.logits_tokens);
  for (const engine::SequenceChunk& chunk : plan.chunks) {
    const int64_t n = chunk.num_tokens;
    load.attended_tokens += n * chunk.first_position + n * (n + 1) / 2;
  }
  return load;
}

SimulatedRunner::SimulatedRunner(const RunnerShape& shape, StepSeconds step_seconds)
    : shape_(shape),
      step_seconds_(std::move(step_seconds)),
      tokens_(static_cast<size_t>(shape.num_dp_groups)) {
  load_.groups.resize(tokens_.size());
}

engine::Clock SimulatedRunner::clock() const {
  return [this] { return std::chrono::steady_clock::time_point(now_); };
}

void SimulatedRunner::forward(std::span<const engine::StepPlan* const> plans) {
  CHORALE_CHECK(plans.size() == load_.groups.size());
  if (on_step) on_step(plans);
  std::ranges::transform(plans, load_.groups.begin(),
                         [](const engine::StepPlan* plan) { return load_of(*plan); });
  const double seconds = step_seconds_(load_);
  CHORALE_CHECK(seconds >= 0 && std::isfinite(seconds), "a step of {} seconds", seconds);
  now_ += Time(std::max<int64_t>(std::llround(seconds * kNanoseconds), 1));
}

void SimulatedRunner::start_sampling(std::span<const engine::SamplePlan* const> plans) {
  sample_plans_ = plans;
}

void SimulatedRunner::collect(std::span<engine::SampledStep> sampled) {
  for (size_t g = 0; g < sampled.size(); ++g) {
    const std::vector<SampleParams>& rows = sample_plans_[g]->params;
    std::vector<int32_t>& tokens = tokens_[g];
    tokens.clear();
    for (const SampleParams& row : rows) tokens.push_back(next_token(row, shape_.vocab_size));
    if (statuses_.size() < rows.size()) statuses_.resize(rows.size(), static_cast<int32_t>(SampleStatus::ok));
  }
  for (size_t g = 0; g < sampled.size(); ++g) {
    sampled[g] = {.tokens = tokens_[g],
                  .statuses = std::span(statuses_).first(tokens_[g].size()),
                  .logprobs = {},
                  .top_tokens = {}};
  }
}

}  // namespace chorale::simulate
