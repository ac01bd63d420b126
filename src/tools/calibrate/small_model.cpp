#include "tools/calibrate/small_model.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/math.h"
#include "tools/bench/bench_step.h"

namespace chorale::calibrate {

LoadedSmallModel load_small_model(const SmallModel& shape, const std::string& instruction_set, int dp_size,
                                  int threads, int64_t rows, OpProfile* profile) {
  const nlohmann::json config = {{"architectures", {"Qwen3MoeForCausalLM"}},
                                 {"model_type", "qwen3_moe"},
                                 {"vocab_size", shape.vocab},
                                 {"hidden_size", shape.hidden},
                                 {"num_hidden_layers", shape.layers},
                                 {"num_attention_heads", shape.heads},
                                 {"num_key_value_heads", std::max<int64_t>(shape.heads / 2, 1)},
                                 {"head_dim", shape.head_dim},
                                 {"intermediate_size", shape.expert_intermediate},
                                 {"moe_intermediate_size", shape.expert_intermediate},
                                 {"num_experts", 1},
                                 {"num_experts_per_tok", 1},
                                 {"norm_topk_prob", true},
                                 {"max_position_embeddings", shape.context},
                                 {"rope_theta", 1000000.0},
                                 {"rms_norm_eps", 1e-6}};
  engine::LoadOptions load;
  load.config = io::parse_model_config(config.dump(), "calibration");
  load.load_format = "dummy";
  load.device = "cpu";
  load.instruction_set = instruction_set;
  load.threads = threads;
  load.parallel.communicator = "local";
  load.parallel.strategy = {.dp_size = dp_size, .moe_dp_size = dp_size};
  load.chunked_prefill_size = std::max<int64_t>(rows, 512);
  load.max_running_requests = rows * dp_size;
  load.max_total_tokens = round_up(rows * 64 + 4 * shape.context, engine::kBlockTokens);
  load.show_progress = false;
  load.profile = profile;
  return {shape, engine::LoadedModel::load(load)};
}

double time_step(LoadedSmallModel& loaded, int64_t sequences, int64_t tokens_each, int64_t first_position) {
  engine::ModelRunner& runner = loaded.model.runner();
  const int64_t blocks = ceil_div(first_position + tokens_each, runner.block_tokens());
  const engine::StepPlan plan = bench::make_plan({sequences, tokens_each, first_position, blocks}, runner);
  const std::vector<const engine::StepPlan*> plans(static_cast<size_t>(runner.num_dp_groups()), &plan);
  engine::SamplePlan choice;
  for (int64_t row = 0; row < sequences; ++row) {
    choice.params.push_back({.seed = static_cast<uint64_t>(row)});
    choice.bias_offsets.push_back(0);
  }
  const std::vector<const engine::SamplePlan*> choices(plans.size(), &choice);
  std::vector<engine::SampledStep> sampled(plans.size());
  const auto start = std::chrono::steady_clock::now();
  runner.forward(plans);
  runner.sample(choices, sampled);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::map<std::string, OpTotal> totals(const OpProfile& profile) {
  std::map<std::string, OpTotal> all;
  for (const OpRecord& record : profile.records()) {
    OpTotal& total = all[record.name];
    total.seconds += std::chrono::duration<double>(record.end - record.begin).count();
    total.bytes += record.work.bytes;
    total.operations += record.work.operations;
    ++total.calls;
  }
  return all;
}

}  // namespace chorale::calibrate
