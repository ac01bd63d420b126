#include "apps/recommend.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "comm/mpi/mpi_world.h"
#include "engine/machine_file.h"
#include "io/file_access.h"
#include "io/json_fields.h"
#include "kernels/backend.h"
#include "tools/calibrate/calibrate.h"
#include "tools/compare/configs.h"
#include "tools/compare/workload.h"

namespace chorale::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kGroup = "Recommendation";
constexpr uint64_t kMaxTraceBytes = uint64_t{1} << 30;
constexpr size_t kMostShown = 12;

// The mean request of a trace in Mooncake's form: a JSON object per line with input_length and output_length.
parallel::UniformWorkload read_trace(const std::string& file) {
  const std::string source = "--trace " + file;
  std::string text;
  try {
    text = io::read_text_file(file, kMaxTraceBytes);
  } catch (const Error& error) {
    throw_error("--trace: {}", error.what());
  }
  int64_t requests = 0, prompt_tokens = 0, new_tokens = 0, number = 0;
  for (size_t from = 0; from < text.size();) {
    const size_t end = std::min(text.find('\n', from), text.size());
    const std::string_view line = std::string_view(text).substr(from, end - from);
    from = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}, line {}", source, number);
    const nlohmann::json object = io::parse_json_object(line, where);
    const io::JsonFields fields(object, where);
    ++requests;
    prompt_tokens += fields.integer("input_length", {1, int64_t{1} << 30});
    new_tokens += fields.integer("output_length", {1, int64_t{1} << 30});
  }
  if (requests == 0) throw_error("{}: there is no request in it", source);
  return {requests, std::max<int64_t>(prompt_tokens / requests, 1),
          std::max<int64_t>(new_tokens / requests, 1)};
}

parallel::UniformWorkload workload_of(const RecommendFlags& flags) {
  if (!flags.trace.empty()) return read_trace(flags.trace);
  const tools::RandomWorkload random = tools::parse_random_workload(flags.workload);
  return {random.requests, random.prompt_tokens, random.new_tokens};
}

// This machine's memory is what is free of it.
parallel::MachineProfile machine_of(const std::string& file, const engine::LoadOptions& load) {
  if (!file.empty()) return engine::load_machine(file);
  if (kind_of_device(load.device) != DeviceKind::cpu)
    throw_error(
        "--machine is missing: only a CPU is measured by itself; for --device {} give a file, as of "
        "the folder machines",
        load.device);
  parallel::MachineProfile machine =
      calibrate::calibrate({.quick = true, .instruction_set = load.instruction_set});
  machine.memory = available_memory();
  return machine;
}

// All but the machine.
engine::AdviceRequest request_of(const RecommendFlags& flags, const engine::LoadOptions& load,
                                 const io::ModelConfig& config) {
  engine::AdviceRequest request;
  request.load = load;
  request.config = config;
  request.workload = workload_of(flags);
  request.objective = engine::parse_objective(flags.objective, "--objective");
  if (!flags.service_level.empty()) request.service_level = engine::parse_service_level(flags.service_level);
  return request;
}

// ranks: 0: as many as the machine has cores, or devices.
void set_machine(const parallel::MachineProfile& machine, int ranks, engine::AdviceRequest& request) {
  request.machine = machine;
  request.ranks = ranks > 0 ? ranks : machine.shares_cores() ? machine.cores : machine.devices;
}

Json strategy_json(const parallel::Strategy& s) {
  return {{"tp_size", s.tp_size},         {"dp_size", s.dp_size},         {"ep_size", s.ep_size},
          {"moe_tp_size", s.moe_tp_size}, {"moe_dp_size", s.moe_dp_size}, {"world", s.world()}};
}

Json row_json(const engine::RankedStrategy& ranked) {
  Json json = {{"strategy", strategy_json(ranked.strategy)}, {"text", parallel::to_string(ranked.strategy)}};
  if (!ranked.predicted) {
    json["refused"] = ranked.refused;
    return json;
  }
  const parallel::Prediction& p = *ranked.predicted;
  json["meets_slo"] = ranked.meets_service_level;
  json["output_tokens_per_second"] = p.output_rate;
  json["prompt_tokens_per_second"] = p.prompt_rate;
  json["time_to_first_token"] = {{"median", p.first_token_median}, {"p99", p.first_token_p99}};
  json["inter_token_latency"] = {{"median", p.between_median}, {"p99", p.between_p99}};
  json["seconds"] = p.seconds;
  json["steps"] = p.steps;
  Json parts = Json::object();
  for (size_t part = 0; part < parallel::kNumCostParts; ++part)
    parts[std::string(parallel::name_of(static_cast<parallel::CostPart>(part)))] = p.parts.seconds[part];
  json["seconds_by_part"] = std::move(parts);
  json["weight_bytes_of_a_rank"] = ranked.weight_bytes;
  json["kv_cache_bytes_of_a_rank"] = ranked.kv_cache_bytes;
  json["kv_tokens_of_a_group"] = ranked.kv_tokens;
  json["process_bytes"] = ranked.process_bytes;
  return json;
}

Json advice_json(const engine::AdviceRequest& request, const engine::Advice& advice) {
  const parallel::UniformWorkload& w = request.workload;
  Json json = {{"machine", request.machine.name},
               {"ranks", request.ranks},
               {"workload",
                {{"requests", w.requests}, {"prompt_tokens", w.prompt_tokens}, {"new_tokens", w.new_tokens}}},
               {"objective", engine::name_of(request.objective)},
               {"reason", advice.reason},
               {"strategies", Json::array()},
               {"alternatives", Json::array()}};
  for (const engine::RankedStrategy& ranked : advice.ranked) json["strategies"].push_back(row_json(ranked));
  for (const engine::Alternative& other : advice.alternatives)
    json["alternatives"].push_back({{"change", other.change}, {"first", parallel::to_string(other.first)}});
  return json;
}

// The three largest parts, in percent of the time.
std::string largest_parts(const parallel::Prediction& prediction) {
  std::vector<std::pair<double, size_t>> parts;
  for (size_t part = 0; part < parallel::kNumCostParts; ++part)
    parts.emplace_back(-prediction.parts.seconds[part], part);
  std::sort(parts.begin(), parts.end());
  std::string text;
  for (size_t i = 0; i < 3; ++i)
    text += fmt::format("{}{} {:.0f}%", i == 0 ? "" : ", ",
                        parallel::name_of(static_cast<parallel::CostPart>(parts[i].second)),
                        -100 * parts[i].first / prediction.seconds);
  return text;
}

void print_advice(const engine::AdviceRequest& request, const engine::Advice& advice) {
  const parallel::UniformWorkload& w = request.workload;
  fmt::print("{}: {} ranks, {} requests of {} prompt tokens and {} new ones\n\n",
             log::escape(request.machine.name), request.ranks, w.requests, w.prompt_tokens, w.new_tokens);
  fmt::print("  {:<34} {:>9} {:>9} {:>9} {:>10}  {}\n", "strategy", "tokens/s", "TTFT, ms", "ITL, ms",
             "memory", "where the time goes");
  size_t shown = 0, refused = 0;
  for (const engine::RankedStrategy& ranked : advice.ranked) {
    if (!ranked.predicted) {
      ++refused;
      continue;
    }
    if (++shown > kMostShown) continue;
    const parallel::Prediction& p = *ranked.predicted;
    fmt::print("  {:<34} {:>9.4g} {:>9.4g} {:>9.4g} {:>10}  {}{}\n", tools::short_text(ranked.strategy),
               p.output_rate, p.first_token_median * 1e3, p.between_median * 1e3,
               format_bytes(ranked.process_bytes), largest_parts(p),
               ranked.meets_service_level ? "" : "; misses --slo");
  }
  if (shown > kMostShown) fmt::print("  and {} more, which --json shows\n", shown - kMostShown);
  if (refused > 0)
    fmt::print("  {} cannot serve; the last: {}\n", refused, log::escape(advice.ranked.back().refused));
  fmt::print("\n{}\n", log::escape(advice.reason));
  for (const engine::Alternative& other : advice.alternatives)
    fmt::print("{}: {}\n", other.change, tools::short_text(other.first));
}

void set_sizes(const parallel::Strategy& strategy, engine::LoadOptions& load) {
  load.parallel.strategy = {.tp_size = strategy.tp_size,
                            .dp_size = strategy.dp_size,
                            .ep_size = strategy.ep_size,
                            .moe_tp_size = strategy.moe_tp_size,
                            .moe_dp_size = strategy.moe_dp_size};
}

bool gives_sizes(const parallel::StrategyFlags& flags) {
  return flags.tp_size || flags.dp_size || flags.ep_size || flags.moe_tp_size || flags.moe_dp_size ||
         flags.single_expert_mode || flags.enable_ep_moe || flags.enable_dp_attention;
}

}  // namespace

void add_recommend_flags(CLI::App& app, RecommendFlags& flags) {
  app.add_flag("--recommend", flags.recommend, "Rank all strategies of --ranks for a workload")
      ->group(kGroup);
  app.add_option("--ranks", flags.ranks, "Ranks of the strategies; 0: the machine's cores, or devices")
      ->option_text("N")
      ->check(CLI::Range(0, parallel::kMaxWorld))
      ->group(kGroup);
  auto* workload = app.add_option("--workload", flags.workload,
                                  "Requests x prompt tokens + new tokens, all at once (random:64x128+64)")
                       ->option_text("random:RxP+N")
                       ->group(kGroup);
  app.add_option("--trace", flags.trace,
                 "A JSON object per line with input_length and output_length; their mean counts")
      ->option_text("FILE")
      ->excludes(workload)
      ->group(kGroup);
  app.add_option("--objective", flags.objective, "What the first strategy is best at (throughput)")
      ->option_text("throughput|ttft|itl|memory")
      ->check(CLI::IsMember({"throughput", "ttft", "itl", "memory"}))
      ->group(kGroup);
  app.add_option("--slo", flags.service_level,
                 "Medians that come before the objective: strategies that keep them are first")
      ->option_text("ttft=2s,itl=50ms")
      ->group(kGroup);
  app.add_option("--machine", flags.machine,
                 "The machine, as calibrate writes it; default: this one, which is measured quickly")
      ->option_text("FILE")
      ->group(kGroup);
}

engine::AdviceRequest advice_request(const RecommendFlags& flags, const engine::LoadOptions& load,
                                     const io::ModelConfig& config) {
  engine::AdviceRequest request = request_of(flags, load, config);
  set_machine(machine_of(flags.machine, load), flags.ranks, request);
  return request;
}

engine::AdviceRequest advice_request(StrategyFlag& flag, const engine::LoadOptions& load,
                                     const io::ModelConfig& config) {
  engine::AdviceRequest request = request_of({}, load, config);
  if (!flag.profile) flag.profile = machine_of(flag.machine, load);
  set_machine(*flag.profile, flag.ranks, request);
  return request;
}

int run_recommend(const RecommendFlags& flags, const engine::LoadOptions& load, bool json) {
  log::set_level(log::Level::warn);
  io::ModelConfig config = io::load_model_config(load.model_path);
  config.max_tp_size = load.parallel.max_tp_size;
  const engine::AdviceRequest request = advice_request(flags, load, config);
  const engine::Advice advice = engine::advise(request);
  if (json) {
    fmt::print("{}\n", advice_json(request, advice).dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    print_advice(request, advice);
  }
  return advice.ranked.front().predicted ? 0 : 1;
}

void add_strategy_flag(CLI::App& app, StrategyFlag& flag) {
  constexpr const char* kStrategyGroup = "Parallel strategy";
  app.add_option("--strategy", flag.text,
                 "All sizes in one: tp=4,dp=2,ep=8; or auto: what plan --recommend puts first, by throughput "
                 "unless an objective follows: auto:itl")
      ->option_text("SIZES|auto[:OBJECTIVE]")
      ->group(kStrategyGroup);
  app.add_option(
         "--strategy-ranks", flag.ranks,
         "Ranks of --strategy auto, and most of --strategy-policy; 0: the machine's cores, or devices")
      ->option_text("N")
      ->check(CLI::Range(0, parallel::kMaxWorld))
      ->group(kStrategyGroup);
  app.add_option(
         "--machine", flag.machine,
         "The machine of --strategy auto and --strategy-policy, as calibrate writes it; default: this one, "
         "measured quickly")
      ->option_text("FILE")
      ->group(kStrategyGroup);
}

void apply_strategy_flag(StrategyFlag& flag, engine::LoadOptions& load, const io::ModelConfig& config) {
  if (flag.text.empty()) return;
  if (gives_sizes(load.parallel.strategy))
    throw_error("--strategy {}: sizes are given by other flags too; give one of the two", flag.text);
  if (flag.text != "auto" && !flag.text.starts_with("auto:")) {
    set_sizes(parallel::parse_strategy(flag.text), load);
    return;
  }
  if (flag.machine.empty() && load.parallel.communicator != "local" && comm::MpiWorld::launch())
    throw_error("--strategy {}: over MPI every process chooses for itself, so that --machine is needed",
                flag.text);
  engine::Objective objective = engine::Objective::throughput;
  if (flag.text.size() > 4) objective = engine::parse_objective(flag.text.substr(5), "--strategy");
  engine::AdviceRequest request = advice_request(flag, load, config);
  request.objective = objective;
  const engine::Advice advice = engine::advise(request);
  if (!advice.ranked.front().predicted) throw_error("--strategy {}: {}", flag.text, advice.reason);
  set_sizes(advice.ranked.front().strategy, load);
  log::info("--strategy {}: {}", flag.text, advice.reason);
}

}  // namespace chorale::apps
