// Prefill and decode of one rank on random weights, beside the machine's ceilings measured in the same run.
//
// The floor of a decode step is the bytes of the weights it must read over the measured read bandwidth; that
// of a prefill step is the operations of its matrix products over the measured peak of the instruction they
// use. Usage: step_bench [--experts N --top-k K --layers L --threads T --dtype D]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <stdlib.h>

#include "base/log.h"
#include "ceilings.h"
#include "engine/loaded_model.h"
#include "model/weights.h"

namespace chorale::bench {
namespace {

constexpr int64_t kPrefillTokens = 512;
constexpr int64_t kDecodeSteps = 24;
constexpr int kRepeats = 5;
constexpr int64_t kMaxBatch = 16;

struct Flags {
  int64_t experts = 1;
  int64_t top_k = 1;
  int64_t layers = 24;
  int threads = 0;
  std::string dtype = "bfloat16";
  std::string instruction_set = "auto";
};

// The shape of Qwen3-30B-A3B with other numbers of layers and experts.
nlohmann::json config_of(const Flags& flags) {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"model_type", "qwen3_moe"},
          {"vocab_size", 151936},
          {"hidden_size", 2048},
          {"num_hidden_layers", flags.layers},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 4},
          {"head_dim", 128},
          {"intermediate_size", 6144},
          {"moe_intermediate_size", 768},
          {"num_experts", flags.experts},
          {"num_experts_per_tok", flags.top_k},
          {"norm_topk_prob", true},
          {"max_position_embeddings", 4096},
          {"rope_theta", 1000000.0},
          {"rms_norm_eps", 1e-6}};
}

double run_step(engine::ModelRunner& runner, int64_t num_chunks, int64_t tokens_each,
                int64_t first_position) {
  engine::StepPlan plan;
  const int64_t blocks_each =
      (first_position + tokens_each + engine::kBlockTokens - 1) / engine::kBlockTokens;
  for (int64_t c = 0; c < num_chunks; ++c) {
    for (int64_t t = 0; t < tokens_each; ++t) {
      plan.token_ids.push_back(static_cast<int32_t>((c * 7919 + t * 104729 + first_position * 31) % 151936));
    }
    plan.chunks.push_back({c * tokens_each, tokens_each, first_position, c * blocks_each, blocks_each});
    // Sequence c owns the blocks from c * 32 on: 1,024 tokens.
    for (int64_t b = 0; b < blocks_each; ++b) plan.block_tables.push_back(static_cast<int32_t>(c * 32 + b));
    plan.logits_tokens.push_back(static_cast<int32_t>((c + 1) * tokens_each - 1));
  }
  const auto start = std::chrono::steady_clock::now();
  runner.run(plan);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

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

void run(const Flags& flags) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("step_bench.{}", getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder / "config.json") << config_of(flags).dump();
  engine::LoadOptions options;
  options.model_path = folder;
  options.load_format = "dummy";
  options.dtype = flags.dtype;
  options.instruction_set = flags.instruction_set;
  options.threads = flags.threads;
  options.max_total_tokens = kMaxBatch * 1024;
  options.max_running_requests = kMaxBatch;
  options.chunked_prefill_size = kPrefillTokens;
  options.show_progress = false;
  engine::LoadedModel model = engine::LoadedModel::load(options);
  std::filesystem::remove_all(folder);

  ThreadPool pool(model.num_threads());
  const InstructionSet isa = select_instruction_set(flags.instruction_set);
  const ReadBandwidth bandwidth;
  const double element = model.dtype_name() == "float32" ? 4 : 2;
  fmt::print("{}, {}, {}\n", machine_name(model.num_threads()), model.instruction_set_name(),
             model.dtype_name());
  fmt::print("{} layers, {} experts, top {}\n\n", flags.layers, flags.experts, flags.top_k);
  fmt::print("{:<22} {:>10} {:>12} {:>14} {:>10}\n", "work", "tokens/s", "achieved", "ceiling", "fraction");

  run_step(model.runner(), 1, kPrefillTokens, 0);  // touches every page
  std::vector<double> peaks;
  std::vector<double> prefills;
  for (int i = 0; i < kRepeats; ++i) {
    peaks.push_back(peak_operations(pool, isa));
    prefills.push_back(run_step(model.runner(), 1, kPrefillTokens, 0));
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
      steps.push_back(run_step(model.runner(), batch, 1, kPrefillTokens + i));
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
  chorale::bench::Flags flags;
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
