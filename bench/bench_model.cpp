#include "bench_model.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/math.h"

namespace chorale::bench {
namespace {

constexpr int32_t kVocabulary = 151936;

nlohmann::json config_of(const ModelFlags& flags) {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"model_type", "qwen3_moe"},
          {"vocab_size", kVocabulary},
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

}  // namespace

engine::LoadedModel load_bench_model(const ModelFlags& flags) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("chorale-bench.{}", getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder / "config.json") << config_of(flags).dump();
  engine::LoadOptions options;
  options.model_path = folder;
  options.load_format = "dummy";
  options.dtype = flags.dtype;
  options.instruction_set = flags.instruction_set;
  options.threads = flags.threads;
  options.max_total_tokens = kMaxBatch * kBlocksOfSequence * engine::kBlockTokens;
  options.max_running_requests = kMaxBatch * flags.dp_size;
  options.chunked_prefill_size = kPrefillTokens;
  options.show_progress = false;
  options.parallel.strategy.tp_size = flags.tp_size;
  options.parallel.strategy.dp_size = flags.dp_size;
  engine::LoadedModel model = engine::LoadedModel::load(options);
  std::filesystem::remove_all(folder);
  return model;
}

engine::StepPlan make_step(int64_t num_chunks, int64_t tokens_each, int64_t first_position) {
  engine::StepPlan plan;
  const int64_t blocks_each = ceil_div(first_position + tokens_each, engine::kBlockTokens);
  for (int64_t c = 0; c < num_chunks; ++c) {
    for (int64_t t = 0; t < tokens_each; ++t) {
      plan.token_ids.push_back(
          static_cast<int32_t>((c * 7919 + t * 104729 + first_position * 31) % kVocabulary));
    }
    plan.chunks.push_back({c * tokens_each, tokens_each, first_position, c * blocks_each, blocks_each});
    for (int64_t b = 0; b < blocks_each; ++b) {
      plan.block_tables.push_back(static_cast<int32_t>(c * kBlocksOfSequence + b));
    }
    plan.logits_tokens.push_back(static_cast<int32_t>((c + 1) * tokens_each - 1));
  }
  return plan;
}

double time_step(engine::ModelRunner& runner, const engine::StepPlan& plan) {
  const std::vector<const engine::StepPlan*> plans(static_cast<size_t>(runner.num_groups()), &plan);
  std::vector<std::span<const float>> logits(plans.size());
  const auto start = std::chrono::steady_clock::now();
  runner.run_groups(plans, logits);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace chorale::bench
