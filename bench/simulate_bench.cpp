// How many steps a second `chorale simulate` gets through on one core: one replica whose steps take a fixed
// time, so that what is measured is the engine's scheduler, block manager and prefix cache and the simulator
// around them. Seconds are of processor time, which other programs do not change much.
//
//   simulate_bench [--rounds 64] [--prompt 128] [--output 512]
#include <cstdint>
#include <cstdio>
#include <ctime>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "tools/simulate/simulation.h"

namespace chorale::simulate {
namespace {

constexpr int64_t kVocab = 151'936;

void measure(int64_t batch, int64_t rounds, int64_t prompt_tokens, int64_t output_tokens) {
  SimulationOptions options;
  options.shape.vocab_size = kVocab;
  options.engine.max_running_requests = batch;
  options.engine.max_context_len = prompt_tokens + output_tokens;
  const int64_t blocks = options.engine.max_context_len / engine::kBlockTokens + 2;
  options.engine.max_total_tokens = batch * blocks * engine::kBlockTokens;
  options.engine.chunked_prefill_size = 2048;
  options.max_concurrency = batch;
  const RandomRequests shape{.requests = batch * rounds,
                             .prompt_tokens = prompt_tokens,
                             .output_tokens = output_tokens,
                             .range_ratio = 0.5};
  const auto source = random_source(
      shape, {.vocab_size = kVocab, .seed = 1, .rate = RateProfile::parse("inf"), .duration = {}});
  const std::clock_t start = std::clock();
  const SimulationResult result = simulate(
      options, [](const parallel::StepLoad&) { return 1e-3; }, *source);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  const auto steps = static_cast<double>(result.steps);
  fmt::print(
      "batch {:>3}: {:>9.0f} steps, {:>10.0f} tokens, {:>7.0f} requests a second, {:>6.2f} us a step\n",
      batch, steps / seconds,
      static_cast<double>(result.metrics.input_tokens + result.metrics.output_tokens) / seconds,
      static_cast<double>(result.metrics.completed) / seconds, 1e6 * seconds / steps);
  std::fflush(stdout);
}

}  // namespace
}  // namespace chorale::simulate

int main(int argc, char** argv) {
  CLI::App app("How many steps a second the simulator gets through, of one replica on one core");
  int64_t rounds = 64, prompt_tokens = 128, output_tokens = 512;
  app.add_option("--rounds", rounds, "Requests for each place of the batch (64)")->option_text("N");
  app.add_option("--prompt", prompt_tokens, "Most tokens of a prompt (128)")->option_text("N");
  app.add_option("--output", output_tokens, "Most tokens of an answer (512)")->option_text("N");
  CLI11_PARSE(app, argc, argv);
  for (const int64_t batch : {1, 4, 8, 16, 32, 64, 256})
    chorale::simulate::measure(batch, rounds, prompt_tokens, output_tokens);
  return 0;
}
