// chorale plan: what a strategy would make of a model, from its config.json alone.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/placement_report.h"
#include "apps/recommend.h"
#include "apps/settings.h"
#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "base/memory_info.h"
#include "engine/loaded_model.h"
#include "engine/memory_plan.h"
#include "engine/parallel_plan.h"
#include "model/kv_cache.h"
#include "model/weight_shard.h"

namespace chorale::apps {
namespace {

using Json = nlohmann::ordered_json;

struct PlanFlags {
  engine::LoadOptions load;
  RecommendFlags recommend;
  PlacementFlags placement;
  bool json = false;
};

// How a weight of this model is split.
struct ShardedWeight {
  const parallel::ShardingRule* rule = nullptr;
  int64_t size = 1;  // how long the split dimension is, in its units
  int64_t chunks = 1;
  int64_t fewest = 1, most = 1;  // chunks of a rank
};

struct RankLine {
  const engine::RankPart* part = nullptr;
  std::vector<int32_t> experts;  // those in the first layer that has some, ascending, each once
  uint64_t weights = 0;          // bytes
  uint64_t kv_cache = 0;         // bytes
};

struct Plan {
  io::ModelConfig config;
  model::WeightFormats formats;
  DType kv_dtype = DType::bf16;
  std::optional<engine::ParallelPlan> parallel;
  std::vector<ShardedWeight> weights;
  std::vector<RankLine> ranks;
  bool one_process = true;  // ranks are threads of one process
  std::optional<engine::MemoryPlan> memory;
  std::string shortage;   // when there is no memory plan
  int64_t kv_tokens = 0;  // each data-parallel group's; 0 when it is not known
  bool has_load = false;  // of experts
  std::optional<PlacementReport> placement;
};

std::pair<int64_t, const char*> dimension_of(parallel::ChunkUnit unit, const parallel::ShardedSizes& sizes) {
  switch (unit) {
    case parallel::ChunkUnit::none:
      return {1, ""};
    case parallel::ChunkUnit::vocab:
      return {sizes.vocab, "vocabulary rows"};
    case parallel::ChunkUnit::query_heads:
      return {sizes.query_heads, "query heads"};
    case parallel::ChunkUnit::kv_heads:
      return {sizes.kv_heads, "KV heads"};
    case parallel::ChunkUnit::intermediate:
      return {sizes.intermediate, "intermediate"};
    case parallel::ChunkUnit::expert_intermediate:
      return {sizes.expert_intermediate, "expert intermediate"};
  }
  return {1, ""};
}

// The rules whose weights the model has.
std::vector<ShardedWeight> sharded_weights(const Plan& plan) {
  const parallel::ShardedSizes sizes = model::sharded_sizes(plan.config);
  std::vector<ShardedWeight> weights;
  for (const parallel::ShardingRule& rule : parallel::sharding_rules()) {
    const bool has_weight = (rule.pattern != "*.mlp.gate.weight" || sizes.expert_intermediate > 0) &&
                            (rule.pattern != "*.self_attn.o_proj.bias" || plan.config.attention_bias);
    ShardedWeight weight{.rule = &rule, .size = dimension_of(rule.unit, sizes).first};
    if (!has_weight || weight.size < 1) continue;
    weight.chunks = weight.fewest = parallel::num_chunks(rule, sizes);
    weight.most = 0;
    for (const engine::RankPart& part : plan.parallel->ranks) {
      const int64_t share = parallel::chunks_for(rule, part.topology, sizes).size();
      weight.fewest = std::min(weight.fewest, share);
      weight.most = std::max(weight.most, share);
    }
    weights.push_back(weight);
  }
  return weights;
}

std::vector<int32_t> experts_of(const Plan& plan, const engine::RankPart& part) {
  for (const std::vector<int32_t>& layer : part.shard.experts) {
    if (layer.empty()) continue;
    std::vector<int32_t> experts = layer;
    std::sort(experts.begin(), experts.end());
    experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
    return plan.config.num_experts > 0 ? experts : std::vector<int32_t>{};
  }
  return {};
}

// Where the model does not fit into this machine, the rest of the plan is still worth something.
void plan_memory(const PlanFlags& flags, Plan& plan) {
  const int world = plan.parallel->strategy.world();
  std::vector<int> here(plan.one_process ? static_cast<size_t>(world) : 1);
  std::iota(here.begin(), here.end(), 0);
  const uint64_t available = available_memory() / (plan.one_process ? 1 : static_cast<uint64_t>(world));
  try {
    plan.memory = engine::plan_memory(plan.config, plan.formats, flags.load, *plan.parallel, here, available);
    plan.kv_tokens = plan.memory->kv_tokens;
  } catch (const Error& error) {
    plan.shortage = error.what();
    plan.kv_tokens = round_up(flags.load.max_total_tokens, engine::block_tokens(flags.load));
  }
}

Plan make_plan(const PlanFlags& flags) {
  Plan plan;
  plan.config = io::load_model_config(flags.load.model_path);
  plan.config.max_tp_size = flags.load.parallel.max_tp_size;
  plan.formats = engine::choose_formats(plan.config, flags.load);
  plan.kv_dtype = engine::choose_kv_dtype(plan.config, plan.formats.dtype, flags.load);
  plan.one_process = flags.load.parallel.communicator != "mpi";
  const parallel::Strategy strategy = engine::choose_strategy(plan.config, flags.load.parallel);
  const model::StepLimits limits = engine::choose_limits(plan.config, flags.load, strategy.dp_size);
  const std::vector<int> one_host(static_cast<size_t>(strategy.world()), 0);
  plan.parallel = engine::plan_parallel(plan.config, flags.load.parallel, limits, one_host);
  plan.weights = sharded_weights(plan);
  plan_memory(flags, plan);
  plan.has_load = !flags.placement.load.empty();
  plan.placement = report_placement(flags.placement, plan.config, *plan.parallel);
  const int64_t block_tokens = engine::block_tokens(flags.load);
  for (const engine::RankPart& part : plan.parallel->ranks) {
    const int64_t block_bytes =
        model::KvCache::block_bytes(plan.config, part.extent.kv_heads, plan.kv_dtype, plan.formats.device);
    plan.ranks.push_back({&part, experts_of(plan, part),
                          engine::weight_bytes(plan.config, plan.formats, part),
                          static_cast<uint64_t>(plan.kv_tokens / block_tokens * block_bytes)});
  }
  return plan;
}

Json rank_json(const RankLine& rank, int64_t kv_tokens) {
  const parallel::Topology& t = rank.part->topology;
  return {{"rank", t.rank()},
          {"data_parallel_rank", t.data_parallel_rank()},
          {"tensor_parallel_rank", t.tensor_model_parallel_rank()},
          {"moe_expert_parallel_rank", t.moe_expert_parallel_rank()},
          {"moe_tensor_parallel_rank", t.moe_tensor_parallel_rank()},
          {"moe_data_parallel_rank", t.moe_data_parallel_rank()},
          {"query_heads", rank.part->extent.query_heads},
          {"kv_heads", rank.part->extent.kv_heads},
          {"experts", rank.experts},
          {"weight_bytes", rank.weights},
          {"kv_tokens", kv_tokens > 0 ? Json(kv_tokens) : Json()},
          {"kv_cache_bytes", kv_tokens > 0 ? Json(rank.kv_cache) : Json()}};
}

Json memory_json(const Plan& plan) {
  if (!plan.memory) return {{"fits", false}, {"reason", plan.shortage}};
  const engine::MemoryPlan& m = *plan.memory;
  return {{"fits", true},
          {"weight_bytes", m.weights},
          {"kv_cache_bytes", m.kv_cache},
          {"activation_bytes", m.activations},
          {"available_bytes", m.available},
          {"kv_tokens", m.kv_tokens},
          {"context_length", m.context_length},
          {"step_tokens", m.step_tokens}};
}

// With physical_to_logical_map at the top, as --init-expert-location takes it.
Json to_json(const Plan& plan) {
  const parallel::Strategy& s = plan.parallel->strategy;
  Json json = {{"strategy",
                {{"tp_size", s.tp_size},
                 {"dp_size", s.dp_size},
                 {"ep_size", s.ep_size},
                 {"moe_tp_size", s.moe_tp_size},
                 {"moe_dp_size", s.moe_dp_size},
                 {"world", s.world()}}},
               {"dtype", name_of(plan.formats.dtype)},
               {"quantization", plan.formats.quantization()},
               {"kv_cache_dtype", name_of(plan.kv_dtype)},
               {"tokens_travel", plan.parallel->tokens_travel()},
               {"sharding", Json::array()},
               {"ranks", Json::array()},
               {"memory", memory_json(plan)}};
  for (const ShardedWeight& w : plan.weights)
    json["sharding"].push_back({{"pattern", w.rule->pattern},
                                {"split", parallel::name_of(w.rule->split)},
                                {"size", w.size},
                                {"chunks", w.chunks},
                                {"fewest_chunks_of_a_rank", w.fewest},
                                {"most_chunks_of_a_rank", w.most}});
  for (const RankLine& rank : plan.ranks) json["ranks"].push_back(rank_json(rank, plan.kv_tokens));
  if (plan.config.num_experts > 0) {
    json["slots_per_rank"] = plan.parallel->placement.slots_per_rank();
    json["placement"] = to_json(*plan.placement);
    json.update(Json::parse(plan.parallel->placement.to_json()));
  }
  return json;
}

// A table with a line of titles, columns two spaces apart.
void print_table(const std::vector<std::vector<std::string>>& lines) {
  std::vector<size_t> widths(lines.front().size());
  for (const auto& line : lines)
    for (size_t c = 0; c < line.size(); ++c) widths[c] = std::max(widths[c], line[c].size());
  for (const auto& line : lines) {
    std::string text;
    for (size_t c = 0; c < line.size(); ++c) text += fmt::format("  {:<{}}", line[c], widths[c]);
    text.erase(text.find_last_not_of(' ') + 1);
    fmt::print("{}\n", text);
  }
}

void print_sharding(const Plan& plan) {
  std::vector<std::vector<std::string>> lines = {{"weight", "split", "of", "chunks", "chunks of a rank"}};
  const parallel::ShardedSizes sizes = model::sharded_sizes(plan.config);
  for (const ShardedWeight& w : plan.weights) {
    const bool whole = w.rule->unit == parallel::ChunkUnit::none;
    lines.push_back({std::string(w.rule->pattern), std::string(parallel::name_of(w.rule->split)),
                     whole ? "" : fmt::format("{} {}", w.size, dimension_of(w.rule->unit, sizes).second),
                     whole ? "" : fmt::format("{}", w.chunks),
                     whole                ? ""
                     : w.fewest == w.most ? fmt::format("{}", w.most)
                                          : fmt::format("{} to {}", w.fewest, w.most)});
  }
  fmt::print("sharding\n");
  print_table(lines);
}

void print_ranks(const Plan& plan) {
  std::vector<std::vector<std::string>> lines = {{"rank", "DP", "TP", "EP", "MoE TP", "MoE DP", "query heads",
                                                  "KV heads", "weights", "KV tokens", "KV cache", "experts"}};
  const parallel::Strategy& s = plan.parallel->strategy;
  const auto place = [](int index, int size) { return fmt::format("{}/{}", index, size); };
  for (const RankLine& rank : plan.ranks) {
    const parallel::Topology& t = rank.part->topology;
    const bool known = plan.kv_tokens > 0;
    std::string experts = ranges(rank.experts);
    if (s.moe_tp_size > 1)
      experts += fmt::format(" (part {} of {})", t.moe_tensor_parallel_rank() + 1, s.moe_tp_size);
    lines.push_back(
        {fmt::format("{}", t.rank()), place(t.data_parallel_rank(), s.dp_size),
         place(t.tensor_model_parallel_rank(), s.tp_size), place(t.moe_expert_parallel_rank(), s.ep_size),
         place(t.moe_tensor_parallel_rank(), s.moe_tp_size), place(t.moe_data_parallel_rank(), s.moe_dp_size),
         fmt::format("{}", rank.part->extent.query_heads), fmt::format("{}", rank.part->extent.kv_heads),
         format_bytes(rank.weights), known ? fmt::format("{}", plan.kv_tokens) : "-",
         known ? format_bytes(rank.kv_cache) : "-", experts});
  }
  fmt::print("ranks\n");
  print_table(lines);
}

// Whether another layer with experts gives the ranks others than the first does.
bool layers_differ(const Plan& plan) {
  const parallel::ExpertPlacement& placement = plan.parallel->placement;
  for (int l = 1; l < placement.num_layers(); ++l)
    if (!std::ranges::equal(placement.physical_to_logical(l), placement.physical_to_logical(0))) return true;
  return false;
}

void print_placement(const PlacementReport& report) {
  fmt::print("\n");
  for (const std::string& line : to_lines(report)) fmt::print("{}\n", line);
}

void print_plan(const Plan& plan, const std::string& path) {
  const parallel::Strategy& s = plan.parallel->strategy;
  fmt::print("{}: {} experts, {} per token, {} layers, computing in {}{}\n", log::escape(path),
             plan.config.num_experts, plan.config.num_experts_per_tok, plan.config.num_hidden_layers,
             name_of(plan.formats.dtype),
             plan.formats.quantizes() ? fmt::format(" with {} weights", plan.formats.quantization()) : "");
  fmt::print("strategy {}: {} rank{}, {}\n\n", parallel::to_string(s), s.world(), s.world() > 1 ? "s" : "",
             plan.parallel->tokens_travel() ? "tokens travel to their experts" : "no token travels");
  print_sharding(plan);
  fmt::print("\n");
  print_ranks(plan);
  if (plan.config.num_experts > 0) {
    fmt::print("  {}\n", parallel::to_string(plan.parallel->placement));
    if (layers_differ(plan)) fmt::print("  experts are those of the first layer; --json shows all layers\n");
    if (plan.has_load) print_placement(*plan.placement);
  }
  fmt::print("\nmemory{}\n", plan.one_process ? ", of one process whose ranks share the weights"
                                              : ", of rank 0's process, with all ranks on this machine");
  if (!plan.memory) {
    fmt::print("  {}\n", plan.shortage);
    return;
  }
  for (const std::string& line : plan.memory->table()) fmt::print("{}\n", line);
}

int run_plan(const PlanFlags& flags) {
  if (flags.recommend.recommend) return run_recommend(flags.recommend, flags.load, flags.json);
  const Plan plan = make_plan(flags);
  if (flags.json) {
    fmt::print("{}\n", to_json(plan).dump());
  } else {
    print_plan(plan, flags.load.model_path.string());
  }
  return 0;
}

}  // namespace

Command add_plan(CLI::App& root) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* app =
      root.add_subcommand("plan", "Show how a strategy shares a model's weights, experts and memory");
  app->group(kOffline);
  add_config_flag(*app);
  add_model_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  constexpr const char* kMemory = "Memory and scheduling";
  app->add_option("--max-total-tokens", flags->load.max_total_tokens,
                  "Tokens that the KV cache holds; 0: sized from this machine's free memory")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(kMemory);
  app->add_option("--mem-fraction-static", flags->load.mem_fraction,
                  "Share of the memory free after the weights that the KV cache gets (0.8)")
      ->option_text("F")
      ->check(number_in(0.01, 1))
      ->group(kMemory);
  add_chunk_flag(*app, flags->load)->group(kMemory);
  app->add_option("--max-running-requests", flags->load.max_running_requests,
                  "Most requests computed together (256)")
      ->option_text("N")
      ->check(CLI::Range(1, 65536))
      ->group(kMemory);
  add_recommend_flags(*app, flags->recommend);
  add_placement_flags(*app, flags->placement);
  add_json_flag(*app, flags->json);
  return {app, [flags] { return run_plan(*flags); }};
}

}  // namespace chorale::apps
