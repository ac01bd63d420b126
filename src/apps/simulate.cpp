// chorale simulate: a load on replicas that exist as figures alone.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "apps/command.h"
#include "apps/report_files.h"
#include "apps/scheduling_flags.h"
#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "engine/loaded_model.h"
#include "engine/machine_file.h"
#include "engine/memory_plan.h"
#include "engine/strategy_advice.h"
#include "io/file_access.h"
#include "kernels/backend.h"
#include "model/weight_shard.h"
#include "parallel/cost_model.h"
#include "tools/bench/presets.h"
#include "tools/simulate/report.h"

namespace chorale::apps {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 32;
constexpr double kMaxSeconds = 1e8;  // three years

struct SimulateFlags {
  engine::LoadOptions load;
  engine::EngineOptions engine;
  std::string preset;
  std::string machine;
  std::optional<int> ranks;
  std::vector<std::string> strategies;
  std::string router = "least-loaded";
  std::string workload = "random:1000x512+128";
  double range_ratio = 1;
  std::string trace;
  std::string rate;
  std::optional<double> duration;
  std::optional<int64_t> max_concurrency;
  bool disable_radix_cache = false;
  uint64_t seed = 0;
  std::string report;
  std::string version;
  bool json = false;
};

// What all strategies have in common.
struct Setting {
  io::ModelConfig config;
  model::WeightFormats formats;
  DType kv_dtype = DType::bf16;
  parallel::ModelShape shape;
  parallel::MachineProfile machine;
  int64_t block_tokens = 0;
  simulate::SourceOptions source;
  simulate::RandomRequests random;
  std::vector<simulate::TraceRequest> trace;  // empty: random requests
};

void check_flags(const SimulateFlags& flags) {
  if (flags.preset.empty() == flags.load.model_path.empty())
    throw UsageError(fmt::format("expected either --model-path or --preset, found {}",
                                 flags.preset.empty() ? "neither" : "both"));
  if (!flags.report.empty()) make_report_folder("--report", flags.report);
}

simulate::Time to_time(double seconds) {
  return simulate::Time(static_cast<int64_t>(seconds * 1e9));
}

void read_workload(const SimulateFlags& flags, Setting& setting) {
  simulate::SourceOptions& source = setting.source;
  source.vocab_size = setting.config.vocab_size;
  source.seed = flags.seed;
  if (!flags.rate.empty()) source.rate = simulate::RateProfile::parse(flags.rate);
  if (flags.duration) source.duration = to_time(*flags.duration);
  if (!flags.trace.empty()) {
    setting.trace =
        simulate::parse_trace(io::read_text_file(flags.trace, kMaxFileBytes), "--trace " + flags.trace);
    return;
  }
  setting.random = simulate::parse_random_requests(flags.workload);
  setting.random.range_ratio = flags.range_ratio;
  if (!source.rate) source.rate = simulate::RateProfile::parse("inf");
  if (setting.random.requests || source.duration) return;
  if (source.rate->period() <= 0)
    throw_error("--workload {}: without a number of requests, give --duration or a --rate that ends",
                flags.workload);
  source.duration = to_time(source.rate->period());
}

Setting make_setting(const SimulateFlags& flags) {
  Setting setting;
  setting.config =
      flags.preset.empty() ? io::load_model_config(flags.load.model_path) : bench::preset(flags.preset);
  setting.config.max_tp_size = flags.load.parallel.max_tp_size;
  setting.machine = engine::load_machine(flags.machine);
  const bool is_cpu = setting.machine.shares_cores();
  setting.formats = engine::choose_formats(setting.config, flags.load);
  setting.kv_dtype = engine::choose_kv_dtype(setting.config, setting.formats.dtype, flags.load);
  if (!is_cpu && (setting.formats.quantizes() || setting.kv_dtype == DType::i8))
    throw_error("--machine {}: weights in {} and a cache in {} run on the CPU alone", flags.machine,
                setting.formats.quantization(), name_of(setting.kv_dtype));
  setting.shape = engine::model_shape(setting.config, setting.formats, setting.kv_dtype);
  // The reference device keeps the blocks of a GPU, which a build without CUDA does not know.
  setting.block_tokens = backend_of(is_cpu ? DeviceKind::cpu : DeviceKind::ref).kv_block_tokens;
  read_workload(flags, setting);
  return setting;
}

parallel::CostModel cost_model(const SimulateFlags& flags, const Setting& setting,
                               const parallel::Strategy& strategy) {
  engine::ParallelOptions options = flags.load.parallel;
  options.strategy = {.tp_size = strategy.tp_size,
                      .dp_size = strategy.dp_size,
                      .ep_size = strategy.ep_size,
                      .moe_tp_size = strategy.moe_tp_size,
                      .moe_dp_size = strategy.moe_dp_size,
                      .single_expert_mode = std::nullopt};
  const model::StepLimits limits = engine::choose_limits(setting.config, flags.load, strategy.dp_size);
  const std::vector<int> one_host(static_cast<size_t>(strategy.world()), 0);
  const engine::ParallelPlan plan = engine::plan_parallel(setting.config, options, limits, one_host);
  return {setting.machine, setting.shape, strategy, plan.placement};
}

// Tokens of KV cache of each group: as --max-total-tokens says, or what the machine's memory has room for,
// but not more than all running requests could fill. Throws Error when there is no room for one block.
int64_t kv_capacity(const SimulateFlags& flags, const Setting& setting, const parallel::CostModel& cost,
                    int64_t context) {
  if (flags.load.max_total_tokens > 0) return round_up(flags.load.max_total_tokens, setting.block_tokens);
  const auto memory = static_cast<double>(setting.machine.memory);
  const int world = cost.strategy().world();
  double free = memory - cost.weight_bytes_per_rank();
  if (setting.machine.shares_cores()) {
    const parallel::CostModel whole = cost_model(flags, setting, {});
    free = (memory - whole.weight_bytes_per_rank()) / world;  // ranks of one process share the weights
  }
  const int64_t fitting = cost.kv_capacity(std::max(free, 0.0) * flags.load.mem_fraction);
  const int64_t running = ceil_div<int64_t>(flags.load.max_running_requests, cost.strategy().dp_size);
  const int64_t most = running * round_up(context, setting.block_tokens);
  const int64_t tokens = std::min(fitting, most) / setting.block_tokens * setting.block_tokens;
  if (tokens == 0)
    throw_error("the model does not fit: a rank has {} bytes, and {} of weights", setting.machine.memory,
                static_cast<uint64_t>(cost.weight_bytes_per_rank()));
  return tokens;
}

int replicas_of(const SimulateFlags& flags, const parallel::Strategy& strategy) {
  if (!flags.ranks) return 1;
  if (*flags.ranks % strategy.world() != 0)
    throw_error("--ranks {}: expected a multiple of the {} ranks of {}", *flags.ranks, strategy.world(),
                parallel::to_string(strategy));
  return *flags.ranks / strategy.world();
}

void simulate_one(const SimulateFlags& flags, const Setting& setting, simulate::Outcome& outcome) {
  outcome.sizes = parallel::parse_strategy(outcome.strategy);
  outcome.replicas = replicas_of(flags, outcome.sizes);
  const parallel::CostModel cost = cost_model(flags, setting, outcome.sizes);
  simulate::SimulationOptions options;
  options.engine = flags.engine;
  options.engine.enable_prefix_cache = !flags.disable_radix_cache;
  options.engine.chunked_prefill_size = flags.load.chunked_prefill_size;
  options.engine.max_running_requests = flags.load.max_running_requests;
  const int64_t context = engine::choose_context_length(setting.config, flags.load);
  options.engine.max_total_tokens = outcome.kv_tokens_per_group = kv_capacity(flags, setting, cost, context);
  options.engine.max_context_len = std::min(context, outcome.kv_tokens_per_group);
  options.shape = {.vocab_size = setting.config.vocab_size,
                   .block_tokens = setting.block_tokens,
                   .num_dp_groups = outcome.sizes.dp_size};
  options.num_replicas = outcome.replicas;
  options.router = simulate::parse_router(flags.router);
  options.max_concurrency = flags.max_concurrency;
  options.seed = flags.seed;
  const auto source = setting.trace.empty() ? simulate::random_source(setting.random, setting.source)
                                            : simulate::trace_source(setting.trace, setting.source);
  outcome.result = simulate::simulate(
      options, [&](const parallel::StepLoad& load) { return cost.step(load).total(); }, *source);
}

std::string workload_text(const SimulateFlags& flags, const Setting& setting) {
  if (!setting.trace.empty())
    return fmt::format("{} requests of {}", setting.trace.size(),
                       std::filesystem::path(flags.trace).filename().string());
  return flags.range_ratio < 1
             ? fmt::format("{}, lengths from {} of these on", flags.workload, flags.range_ratio)
             : flags.workload;
}

int run_simulate(const SimulateFlags& flags) {
  check_flags(flags);
  const Setting setting = make_setting(flags);
  simulate::SimulateReport report;
  report.version = flags.version;
  report.model = flags.preset.empty() ? folder_name(flags.load.model_path) : flags.preset;
  report.machine = setting.machine.name;
  report.workload = workload_text(flags, setting);
  report.arrivals = setting.source.rate ? setting.source.rate->description() : "as in the trace";
  report.router = flags.router;
  report.max_concurrency = flags.max_concurrency;
  report.seed = flags.seed;
  const std::vector<std::string> simple = {"tp=1"};
  for (const std::string& text : flags.strategies.empty() ? simple : flags.strategies) {
    simulate::Outcome& outcome = report.outcomes.emplace_back();
    outcome.strategy = text;
    try {
      simulate_one(flags, setting, outcome);
    } catch (const Error& error) {
      if (flags.strategies.size() < 2) throw;
      outcome.error = error.what();
    }
  }
  if (!flags.report.empty()) {
    const std::filesystem::path folder = flags.report;
    write_report_file(folder / "report.json", simulate::report_json(report, 2) + "\n");
    write_report_file(folder / "report.html", simulate::report_html(report));
  }
  fmt::print("{}", flags.json ? simulate::report_json(report, -1) + "\n" : simulate::report_text(report));
  return simulate::all_simulated(report) ? 0 : 1;
}

void add_cluster_flags(CLI::App& app, SimulateFlags& flags) {
  constexpr const char* kGroup = "Machines";
  app.add_option("--machine", flags.machine, "What a machine can do, as calibrate writes it")
      ->option_text("FILE (required)")
      ->required()
      ->group(kGroup);
  app.add_option("--strategy", flags.strategies,
                 "How ranks share the model; several are compared: tp, dp, ep, moe_tp, moe_dp (tp=1)")
      ->option_text("tp=4,dp=2,ep=8")
      ->allow_extra_args(false)
      ->group(kGroup);
  app.add_option("--ranks", flags.ranks, "All ranks, of as many replicas as they make; default: one replica")
      ->option_text("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kGroup);
  app.add_option("--router", flags.router,
                 "Which replica gets a request: that with the fewest, or each in turn (least-loaded)")
      ->option_text("least-loaded|round-robin")
      ->check(CLI::IsMember({"least-loaded", "round-robin"}))
      ->group(kGroup);
}

void add_load_flags(CLI::App& app, SimulateFlags& flags) {
  constexpr const char* kGroup = "Load";
  auto* workload =
      app.add_option("--workload", flags.workload,
                     "Requests x random prompt tokens + new tokens; without a number of requests: "
                     "as many as come in time (random:1000x512+128)")
          ->option_text("random:[Rx]P+N")
          ->group(kGroup);
  app.add_option("--random-range-ratio", flags.range_ratio,
                 "random: lengths are drawn from this share of them on; 1: always full length (1)")
      ->option_text("R")
      ->check(number_in(0, 1))
      ->group(kGroup);
  app.add_option("--trace", flags.trace,
                 "Requests of a trace in Mooncake's form: timestamp, input_length, output_length, hash_ids")
      ->option_text("FILE")
      ->excludes(workload)
      ->group(kGroup);
  app.add_option(
         "--rate", flags.rate,
         "Requests per second, as a Poisson process: a number; inf: all at once; day:LOW..HIGH: up to "
         "noon and down again; a file with lines of SECONDS RATE (inf; with --trace: its times)")
      ->option_text("R|inf|day:A..B|FILE")
      ->group(kGroup);
  app.add_option("--duration", flags.duration, "Leave out requests that come later than this")
      ->option_text("SECONDS")
      ->check(number_in(1e-6, kMaxSeconds))
      ->group(kGroup);
  app.add_option("--max-concurrency", flags.max_concurrency,
                 "Most requests at a time; clients hold back others")
      ->option_text("N")
      ->check(CLI::Range(1, 1 << 30))
      ->group(kGroup);
  app.add_option("--seed", flags.seed, "Of prompts, lengths and arrivals (0)")
      ->option_text("S")
      ->group(kGroup);
}

}  // namespace

Command add_simulate(CLI::App& root, const std::string& version) {
  auto flags = std::make_shared<SimulateFlags>();
  flags->version = version;
  CLI::App* app = root.add_subcommand(
      "simulate", "Predict latencies and throughput of a load on machines that are not here");
  app->group(kOffline);
  add_model_flags(*app, flags->load, ModelArgument::optional);
  for (const char* name : {"--load-format", "--device"}) app->remove_option(app->get_option(name));
  flags->load.device = "cpu";  // of the formats alone
  app->add_option(
         "--preset", flags->preset,
         fmt::format("A model's shape, in place of --model-path: {}", fmt::join(bench::preset_names(), ", ")))
      ->option_text("NAME")
      ->check(CLI::IsMember(bench::preset_names()))
      ->group("Model");
  add_cluster_flags(*app, *flags);
  add_load_flags(*app, *flags);
  add_scheduling_flags(*app, flags->load, flags->engine, flags->disable_radix_cache);
  app->add_option("--report", flags->report, "Folder for report.json and report.html, with charts")
      ->option_text("DIR")
      ->group("Output");
  add_json_flag(*app, flags->json);
  return {app, [flags] { return run_simulate(*flags); }};
}

}  // namespace chorale::apps
