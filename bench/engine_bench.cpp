// What the engine itself costs: a model that stands for a device which takes a fixed time for each step and
// does nothing, so that whatever is lost between two steps is the host's.
//
//   engine_bench [--step-us 1000] [--steps 2000]
//
// For each batch, with steps planned ahead and without: the share of the device's steps that are kept, and
// the host's work per step, which is the time in which the engine's thread does not wait for the device.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/spin.h"
#include "engine/engine.h"

namespace chorale::engine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kVocab = 151'936;
constexpr int64_t kPromptTokens = 128;
constexpr int64_t kWarmUp = 100;  // steps that are not counted

// A forward pass begins when the one before it is done; sampling takes no time.
class SteadyDevice : public ModelRunner {
 public:
  SteadyDevice(std::chrono::microseconds step, int64_t most_rows)
      : step_(step), tokens_(static_cast<size_t>(most_rows), 17), statuses_(tokens_.size(), 0) {}

  int64_t vocab_size() const override { return kVocab; }
  bool runs_ahead() const override { return true; }
  int64_t num_spare_blocks() const override { return 32; }

  void forward(std::span<const StepPlan* const>) override { done_ = std::max(done_, Clock::now()) + step_; }
  void start_sampling(std::span<const SamplePlan* const> plans) override {
    rows_ = static_cast<size_t>(plans[0]->num_rows());
    sampled_at_ = done_;
  }
  void collect(std::span<SampledStep> sampled) override {
    const Clock::time_point start = Clock::now();
    Clock::time_point now = start;
    for (; now < sampled_at_; now = Clock::now()) relax_processor();
    sampled[0] = {.tokens = std::span(tokens_).first(rows_),
                  .statuses = std::span(statuses_).first(rows_),
                  .logprobs = {},
                  .top_tokens = {}};
    if (++num_steps_ == kWarmUp) {
      first_ = now;
      waited_ = {};
    } else {
      waited_ += now - start;
    }
    if (num_steps_ == last_step) {
      last_ = now;
      waited_at_last_ = waited_;
    }
  }
  std::span<const float> logits() override { return {}; }

  int64_t last_step = 0;  // that is counted

  void report(const std::string& what) const {
    const auto steps = static_cast<double>(last_step - kWarmUp);
    const std::chrono::duration<double, std::micro> all = last_ - first_, waited = waited_at_last_,
                                                    step = step_;
    fmt::print("{:<28} {:>8.1f} us a step, {:>5.1f}% of the device's steps, host {:>6.1f} us\n", what,
               all.count() / steps, 100 * steps * step.count() / all.count(), (all - waited).count() / steps);
    std::fflush(stdout);
  }

 private:
  const std::chrono::microseconds step_;
  std::vector<int32_t> tokens_, statuses_;
  size_t rows_ = 0;
  Clock::time_point done_, sampled_at_;
  int64_t num_steps_ = 0;
  Clock::time_point first_, last_;
  Clock::duration waited_{}, waited_at_last_{};
};

// Half of the requests greedy, half sampled, all with listeners as a stream has them.
void measure(int64_t batch, bool ahead, std::chrono::microseconds step, int64_t steps) {
  SteadyDevice device(step, batch);
  device.last_step = kWarmUp + steps;
  EngineOptions options;
  options.overlap_schedule = ahead;
  options.max_context_len = kPromptTokens + steps + 10 * kWarmUp;
  options.max_total_tokens = batch * (options.max_context_len + kBlockTokens) / kBlockTokens * kBlockTokens;
  options.chunked_prefill_size = 8192;
  options.max_running_requests = batch;
  options.eos_token_ids = {2};
  std::atomic<int64_t> tokens = 0;
  {
    Engine engine(device, options);
    std::vector<Submission> submissions;
    for (int64_t i = 0; i < batch; ++i) {
      GenerationRequest request;
      request.id = fmt::format("r{}", i);
      request.prompt_ids.assign(kPromptTokens, static_cast<int32_t>(i));
      request.sampling.max_new_tokens = steps + 2 * kWarmUp;
      request.sampling.seed = static_cast<uint64_t>(i);
      request.sampling.temperature = i % 2 == 0 ? 0 : 0.8;
      if (i % 2 == 1) request.sampling.top_p = 0.95;
      submissions.push_back({std::move(request), [&tokens](GenerationEvent event) {
                               tokens.fetch_add(std::ssize(event.token_ids), std::memory_order_relaxed);
                             }});
    }
    engine.submit(std::move(submissions));
    engine.wait_idle(600);
  }
  device.report(fmt::format("batch {:>3}, {}", batch, ahead ? "one step ahead" : "without the lead"));
}

}  // namespace
}  // namespace chorale::engine

int main(int argc, char** argv) {
  CLI::App app("What the engine costs beside a device that takes a fixed time for each step");
  int64_t step_us = 1000, steps = 2000;
  app.add_option("--step-us", step_us, "Microseconds that the device takes for a step")->option_text("N");
  app.add_option("--steps", steps, "Steps that are measured")->option_text("N");
  CLI11_PARSE(app, argc, argv);
  for (const int64_t batch : {1, 32, 256}) {
    for (const bool ahead : {true, false})
      chorale::engine::measure(batch, ahead, std::chrono::microseconds(step_us), steps);
  }
  return 0;
}
