#include "tools/bench/bench_step.h"

#include <chrono>
#include <vector>

#include "base/math.h"

namespace chorale::bench {

engine::StepPlan make_plan(const BenchStep& step, const engine::ModelRunner& runner) {
  const int64_t vocab_size = runner.vocab_size();
  engine::StepPlan plan;
  const int64_t blocks = ceil_div(step.first_position + step.tokens_each, runner.block_tokens());
  for (int64_t s = 0; s < step.sequences; ++s) {
    for (int64_t t = 0; t < step.tokens_each; ++t) {
      plan.token_ids.push_back(
          static_cast<int32_t>((s * 7919 + t * 104729 + step.first_position * 31) % vocab_size));
    }
    plan.chunks.push_back({s * step.tokens_each, step.tokens_each, step.first_position, s * blocks, blocks});
    for (int64_t b = 0; b < blocks; ++b)
      plan.block_tables.push_back(static_cast<int32_t>(s * step.blocks_each + b));
    plan.logits_tokens.push_back(static_cast<int32_t>((s + 1) * step.tokens_each - 1));
  }
  return plan;
}

double time_step(engine::ModelRunner& runner, const BenchStep& step) {
  const engine::StepPlan plan = make_plan(step, runner);
  const std::vector<const engine::StepPlan*> plans(static_cast<size_t>(runner.num_dp_groups()), &plan);
  engine::SamplePlan greedy;
  greedy.params.assign(plan.logits_tokens.size(), {.temperature = 0});
  const std::vector<const engine::SamplePlan*> choices(plans.size(), &greedy);
  std::vector<engine::SampledStep> sampled(plans.size());
  const auto start = std::chrono::steady_clock::now();
  runner.forward(plans);
  runner.sample(choices, sampled);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace chorale::bench
