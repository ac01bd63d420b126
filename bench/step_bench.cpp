// Prefill and decode of one rank on random weights, beside the machine's ceilings measured in the same run.
//
// The floor of a decode step is the bytes of the weights it must read over the measured read bandwidth; that
// of a prefill step is the operations of its matrix products over the measured peak of the instruction they
// use. Usage: step_bench [--experts N --top-k K --layers L --threads T --dtype D]
#include <algorithm>
#include <cstdio>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "bench_model.h"
#include "ceilings.h"

namespace chorale::bench {
namespace {

constexpr int64_t kDecodeSteps = 24;
constexpr int kRepeats = 5;

// Parameters in the matrix products of one token, without the head.
double active_parameters(const io::ModelConfig& c) {
  const int64_t attention = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim * c.hidden_size;
  const int64_t experts = 3 * c.num_experts_per_tok * c.moe_intermediate_size * c.hidden_size;
  return static_cast<double>(c.num_hidden_layers * (attention + experts + c.num_experts * c.hidden_size));
}

// Bytes of a decode step's weights, at most: with few experts or many tokens, every expert is touched.
double decode_bytes(const io::ModelConfig& c, int64_t batch, double element) {
  const int64_t touched = std::min(c.num_experts, batch * c.num_experts_per_tok);
  io::ModelConfig active = c;
  active.num_experts_per_tok = touched;
  return element * (active_parameters(active) + static_cast<double>(c.vocab_size * c.hidden_size));
}

void run(const ModelFlags& flags) {
  engine::LoadedModel model = load_bench_model(flags);
  ThreadPool pool(model.num_threads());
  const InstructionSet isa = select_instruction_set(flags.instruction_set);
  const ReadBandwidth bandwidth;
  const double element = model.dtype_name() == "float32" ? 4 : 2;
  fmt::print("{}, {}, {}\n", machine_name(model.num_threads()), model.instruction_set_name(),
             model.dtype_name());
  fmt::print("{} layers, {} experts, top {}\n\n", flags.layers, flags.experts, flags.top_k);
  fmt::print("{:<22} {:>10} {:>12} {:>14} {:>10}\n", "work", "tokens/s", "achieved", "ceiling", "fraction");

  time_step(model.runner(), make_step(1, kPrefillTokens, 0));  // touches every page
  std::vector<double> peaks;
  std::vector<double> prefills;
  for (int i = 0; i < kRepeats; ++i) {
    peaks.push_back(peak_operations(pool, isa));
    prefills.push_back(time_step(model.runner(), make_step(1, kPrefillTokens, 0)));
  }
  const double operations = 2 * active_parameters(model.config()) * static_cast<double>(kPrefillTokens);
  const double achieved = operations / median(prefills);
  fmt::print("{:<22} {:>10.1f} {:>7.0f} GF/s {:>9.0f} GF/s {:>9.0f}%\n", "prefill 512",
             static_cast<double>(kPrefillTokens) / median(prefills), achieved / 1e9, median(peaks) / 1e9,
             100 * achieved / median(peaks));

  for (const int64_t batch : {int64_t{1}, int64_t{4}, kMaxBatch}) {
    std::vector<double> ceilings;
    std::vector<double> steps;
    for (int64_t i = 0; i < kDecodeSteps; ++i) {
      if (i % 8 == 0) ceilings.push_back(bandwidth.measure(pool));
      steps.push_back(time_step(model.runner(), make_step(batch, 1, kPrefillTokens + i)));
    }
    const double rate = decode_bytes(model.config(), batch, element) / median(steps);
    fmt::print("{:<22} {:>10.1f} {:>7.1f} GB/s {:>9.1f} GB/s {:>9.0f}%\n",
               fmt::format("decode, batch {}", batch), static_cast<double>(batch) / median(steps), rate / 1e9,
               median(ceilings) / 1e9, 100 * rate / median(ceilings));
  }
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::ModelFlags flags;
  CLI::App app("Prefill and decode beside the machine's ceilings");
  app.add_option("--experts", flags.experts);
  app.add_option("--top-k", flags.top_k);
  app.add_option("--layers", flags.layers);
  app.add_option("--threads", flags.threads);
  app.add_option("--dtype", flags.dtype);
  app.add_option("--instruction-set", flags.instruction_set);
  CLI11_PARSE(app, argc, argv);
  chorale::log::set_level(chorale::log::Level::warn);
  chorale::bench::run(flags);
}
