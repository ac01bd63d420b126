#include "engine/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "base/thread_pool.h"
#include "engine/agreement.h"
#include "engine/background_work.h"
#include "engine/local_runner.h"
#include "engine/memory_plan.h"
#include "engine/mpi_channel.h"
#include "engine/mpi_ranks.h"
#include "engine/mpi_runner.h"
#include "engine/rank_processes.h"
#include "io/checkpoint.h"
#include "kernels/backend.h"
#include "model/weight_loader.h"

namespace chorale::engine {
namespace {

constexpr std::chrono::milliseconds kFarewell{500};
constexpr int kRankFailed = 70;
constexpr int kThreadsPerCore = 2;  // more of them are warned of

DType compute_dtype(const std::string& name) {
  if (name == "auto" || name == "bfloat16") return DType::bf16;
  if (name == "float32") return DType::f32;
  throw_error("--dtype: expected auto, bfloat16 or float32, found \"{}\"", name);
}

bool is_dummy(const LoadOptions& options) {
  if (options.load_format == "dummy") return true;
  if (options.load_format == "auto") return false;
  throw_error("--load-format: expected auto or dummy, found \"{}\"", options.load_format);
}

}  // namespace

namespace {

// What the flags and the checkpoint say, whatever the device.
model::WeightFormats formats_of(const io::ModelConfig& config, const LoadOptions& options) {
  const DType dtype = compute_dtype(options.dtype);
  const std::string& flag = options.quantization;
  if (flag == "none") return dtype;
  if (flag == "int8") return {dtype, WeightFormat::int8};
  const std::string_view method = io::name_of(config.quantization.method);
  if (flag != "auto" && flag != "int4" && flag != method) {
    throw_error("--quantization {}: the checkpoint's quantization_config says {}", flag, method);
  }
  model::WeightFormats formats = flag == "int4" ? model::WeightFormats{dtype, WeightFormat::int4} : dtype;
  if (config.quantization.is_int4()) {
    formats.linear = WeightFormat::int4;
    formats.source_group = config.quantization.group_size;
  }
  return formats;
}

}  // namespace

model::WeightFormats choose_formats(const io::ModelConfig& config, const LoadOptions& options) {
  model::WeightFormats formats = formats_of(config, options);
  formats.device = kind_of_device(options.device);
  if (formats.quantizes() && !backend_of(formats.device).has_quantized_weights) {
    throw_error(
        "--device {}: weights in {} run on the CPU alone; with --quantization none they are used in {}",
        options.device, formats.quantization(), name_of(formats.dtype));
  }
  return formats;
}

int64_t block_tokens(const LoadOptions& options) {
  return backend_of(kind_of_device(options.device)).kv_block_tokens;
}

namespace {

// ---- resolve: what the options and the checkpoint say ----

struct Resolved {
  io::ModelConfig config;
  io::GenerationDefaults defaults;
  model::WeightFormats formats;
  InstructionSet instruction_set = InstructionSet::portable;
  std::unique_ptr<DeviceDriver> driver;      // of the device; null for the CPU
  std::optional<io::Checkpoint> checkpoint;  // absent: random weights

  Device device() const { return driver == nullptr ? Device() : Device(*driver); }
};

Resolved resolve(const LoadOptions& options) {
  Resolved resolved;
  resolved.instruction_set = select_instruction_set(options.instruction_set);
  const bool dummy = is_dummy(options);
  CHORALE_CHECK(dummy || !options.config, "a configuration without files");
  resolved.config = options.config ? *options.config : io::load_model_config(options.model_path);
  resolved.config.max_tp_size = options.parallel.max_tp_size;
  resolved.formats = choose_formats(resolved.config, options);
  resolved.driver = open_device(options.device);
  if (!options.config) resolved.defaults = io::load_generation_defaults(options.model_path);
  if (!dummy) {
    resolved.checkpoint = io::Checkpoint::open(options.model_path);
    model::check_tensors(*resolved.checkpoint, resolved.config);
  }
  return resolved;
}

// ---- plan: what every rank does, and what it takes of the machine ----

int num_threads(const LoadOptions& options, int sharers) {
  return options.threads > 0 ? options.threads : std::max(1, available_cores() / sharers);
}

void log_model(const Resolved& resolved, const LoadPlan& plan, const LoadOptions& options) {
  const io::ModelConfig& config = resolved.config;
  log::info("{}: {}, {} layers, hidden size {}, {} experts, {} per token, {} attention heads, {} KV heads",
            options.config ? "no files" : options.model_path.string(), config.architecture,
            config.num_hidden_layers, config.hidden_size, config.num_experts, config.num_experts_per_tok,
            config.num_attention_heads, config.num_key_value_heads);
  const std::string weights =
      resolved.formats.quantizes() ? fmt::format(" with {} weights", resolved.formats.quantization()) : "";
  if (resolved.driver != nullptr) {
    log::info("computing in {} on {}, {}", name_of(resolved.formats.dtype), resolved.driver->name(),
              resolved.driver->description());
    return;
  }
  log::info("computing in {}{} with {} instructions on {} thread{}{}", name_of(resolved.formats.dtype),
            weights, name_of(plan.instruction_set), plan.threads_per_rank,
            plan.threads_per_rank == 1 ? "" : "s",
            plan.parallel.strategy.world() > 1 ? " for each rank" : "");
}

// Threads that find no core only spin until those that have one are done.
void log_limits(int threads) {
  log::info("limits: {}", describe_limits());
  const int cores = available_cores();
  if (threads <= kThreadsPerCore * cores) return;
  log::warn(
      "--threads: {} threads for {} core{}, which makes every step much slower; 0 takes as many as there are "
      "cores",
      threads, cores, cores == 1 ? "" : "s");
}

void log_plan(const Resolved& resolved, const LoadPlan& plan, bool over_mpi) {
  const parallel::Strategy& strategy = plan.parallel.strategy;
  if (strategy.world() > 1) {
    log::info("strategy {}: {} ranks{}, {}", parallel::to_string(strategy), strategy.world(),
              over_mpi ? " over MPI" : " in this process",
              plan.parallel.tokens_travel() ? "tokens travel to their experts" : "no token travels");
    for (const std::string& line :
         rank_lines(resolved.config, resolved.formats, plan.parallel, plan.memory.kv_tokens)) {
      log::info("{}", line);
    }
  }
  log::info("memory{}{}:", over_mpi ? " of rank 0" : "",
            resolved.driver == nullptr ? "" : " of " + resolved.driver->name());
  for (const std::string& line : plan.memory.table()) log::info("{}", line);
}

uint64_t free_memory(const Resolved& resolved) {
  return resolved.driver == nullptr ? available_memory() : resolved.driver->free_memory();
}

// Collective.
void require_agreement_of_ranks(const Resolved& resolved, const LoadOptions& options,
                                const parallel::Strategy& strategy, const RankProcesses& processes) {
  if (processes.mpi() != nullptr) {
    const RankInputs inputs{.options = options,
                            .config = resolved.config,
                            .formats = resolved.formats,
                            .strategy = strategy,
                            .checkpoint = resolved.checkpoint ? &*resolved.checkpoint : nullptr,
                            .device = resolved.device().name()};
    require_agreement(*processes.mpi(),
                      what_was_given(inputs, num_threads(options, processes.num_on_this_host())));
  }
  processes.require_world();
}

// Collective.
LoadPlan plan_load(const Resolved& resolved, const LoadOptions& options, const parallel::Strategy& strategy,
                   const RankProcesses& processes) {
  // Ranks on different processors would compute different bits; the sets are in order of what they need.
  const auto instruction_set =
      static_cast<InstructionSet>(processes.least_of_all(static_cast<int64_t>(resolved.instruction_set)));
  const int sharers = static_cast<int>(processes.ranks_here().size()) * processes.num_on_this_host();
  const model::StepLimits limits = choose_limits(resolved.config, options, strategy.dp_size);
  LoadPlan plan{
      .limits = limits,
      .parallel = plan_parallel(resolved.config, options.parallel, limits, processes.host_numbers()),
      .instruction_set = instruction_set,
      .threads_per_rank = num_threads(options, sharers),
      .memory = {}};
  if (processes.is_driver()) {
    log_limits(options.threads * sharers);
    log_model(resolved, plan, options);
  }
  plan.memory = plan_memory(resolved.config, resolved.formats, options, plan.parallel, processes.ranks_here(),
                            free_memory(resolved) / static_cast<uint64_t>(processes.num_on_this_host()));
  plan.memory.kv_tokens = processes.least_of_all(plan.memory.kv_tokens);
  if (processes.is_driver()) log_plan(resolved, plan, processes.mpi() != nullptr);
  return plan;
}

ModelInfo describe(const Resolved& resolved, const LoadPlan& plan) {
  const std::vector<int64_t>& eos = resolved.defaults.eos_token_ids.empty() ? resolved.config.eos_token_ids
                                                                            : resolved.defaults.eos_token_ids;
  return {.config = resolved.config,
          .generation_defaults = resolved.defaults,
          .eos_token_ids = {eos.begin(), eos.end()},
          .formats = resolved.formats,
          .kv_dtype = plan.memory.kv_dtype,
          .device = resolved.device().name(),
          .device_description = resolved.driver == nullptr ? "" : resolved.driver->description(),
          .instruction_set = plan.instruction_set,
          .num_threads = plan.threads_per_rank,
          .parallel = plan.parallel,
          .weight_bytes = plan.memory.weights,
          .max_total_tokens = plan.memory.kv_tokens,
          .max_context_len = std::min(plan.memory.context_length, plan.memory.kv_tokens)};
}

// ---- start: the ranks ----

// For another strategy; a placement that was made for the first one need not fit.
LoadOptions options_with(const LoadOptions& given, const parallel::Strategy& strategy) {
  LoadOptions options = given;
  options.parallel.strategy = {};
  options.parallel.strategy.tp_size = strategy.tp_size;
  options.parallel.strategy.dp_size = strategy.dp_size;
  options.parallel.strategy.ep_size = strategy.ep_size;
  options.parallel.strategy.moe_tp_size = strategy.moe_tp_size;
  options.parallel.strategy.moe_dp_size = strategy.moe_dp_size;
  options.parallel.init_expert_location = "trivial";
  // Experts stay where they are under a strategy in which they have nowhere to go.
  options.parallel.enable_eplb &= strategy.ep_size > 1;
  return options;
}

}  // namespace

// Each member uses those before it.
struct LoadedModel::Impl {
  std::unique_ptr<DeviceDriver> driver;  // of the device; null for the CPU
  RankProcesses processes;
  ModelInfo info;
  LoadOptions options;  // as they were given
  std::optional<io::Checkpoint>
      checkpoint;                         // over MPI, where ranks of other strategies read it; absent: random
  StoredWeights shared;                   // the whole model, where all ranks are in this process
  std::unique_ptr<MpiChannel> channel;    // null there
  std::unique_ptr<PreparedRunner> ranks;  // those that run
  std::unique_ptr<MpiRanks> mpi_ranks;    // null without the channel

  Device device() const { return driver == nullptr ? Device() : Device(*driver); }

  WeightSource source() const {
    return {.config = info.config,
            .formats = info.formats,
            .checkpoint = checkpoint ? &*checkpoint : nullptr,
            .seed = options.dummy_seed,
            .device = device()};
  }

  RunnerParts parts_of(const ParallelPlan& parallel, const StoredWeights& stored,
                       const LoadPlan& plan) const {
    return {.config = info.config,
            .plan = parallel,
            .weights = stored.weights,
            .stored = stored.shard,
            .limits = plan.limits,
            .num_blocks = plan.memory.kv_tokens / info.block_tokens() + plan.memory.spare_blocks,
            .num_spare_blocks = plan.memory.spare_blocks,
            .kv_dtype = plan.memory.kv_dtype,
            .device = device(),
            .isa = plan.instruction_set,
            .threads_per_rank = plan.threads_per_rank,
            .collective_timeout = options.parallel.collective_timeout,
            .records_steps = options.records_steps,
            .fault = ranks == nullptr ? options.parallel.fault : std::nullopt,  // for the first ranks
            .profile = options.profile};
  }

  std::unique_ptr<PreparedRunner> make_local(LoadPlan plan) const;
  // The weights are what the rank stores.
  std::unique_ptr<PreparedRunner> make_over_mpi(LoadPlan plan, StoredWeights stored, MpiGroups groups) const;
  LoadPlan plan_for(const parallel::Strategy& strategy) const;
  RankMaker maker() const;
};

std::unique_ptr<PreparedRunner> LoadedModel::Impl::make_local(LoadPlan plan) const {
  auto made = std::make_unique<PreparedRunner>(
      PreparedRunner{std::move(plan.parallel), plan.memory.kv_tokens, {}, nullptr});
  made->runner = std::make_unique<LocalRunner>(parts_of(made->plan, shared, plan));
  return made;
}

std::unique_ptr<PreparedRunner> LoadedModel::Impl::make_over_mpi(LoadPlan plan, StoredWeights stored,
                                                                 MpiGroups groups) const {
  auto made = std::make_unique<PreparedRunner>(
      PreparedRunner{std::move(plan.parallel), plan.memory.kv_tokens, std::move(stored), nullptr});
  made->runner = std::make_unique<MpiRunner>(MpiParts{.parts = parts_of(made->plan, made->stored, plan),
                                                      .stored = made->stored,
                                                      .source = source(),
                                                      .channel = *channel,
                                                      .groups = std::move(groups)});
  return made;
}

// What runs keeps its memory until the switch is made. Ranks of one process have their weights already.
LoadPlan LoadedModel::Impl::plan_for(const parallel::Strategy& strategy) const {
  const LoadOptions wanted = options_with(options, strategy);
  const bool over_mpi = channel != nullptr;
  const auto world = static_cast<size_t>(strategy.world());
  std::vector<int> here(world);
  std::iota(here.begin(), here.end(), 0);
  if (over_mpi) here = processes.ranks_here();
  const std::vector<int> hosts = over_mpi ? processes.host_numbers() : std::vector<int>(world, 0);
  const model::StepLimits limits = choose_limits(info.config, wanted, strategy.dp_size);
  LoadPlan plan{.limits = limits,
                .parallel = plan_parallel(info.config, wanted.parallel, limits, hosts),
                .instruction_set = info.instruction_set,
                .threads_per_rank = over_mpi ? info.num_threads : num_threads(options, strategy.world()),
                .memory = {}};
  const uint64_t free = driver == nullptr ? available_memory() : driver->free_memory();
  const uint64_t available =
      over_mpi ? free / static_cast<uint64_t>(processes.num_on_this_host()) : free + info.weight_bytes;
  plan.memory = plan_memory(info.config, info.formats, wanted, plan.parallel, here, available);
  return plan;
}

// Weights are read so that steps keep the cores; the rank's own threads are made by one that has its share.
RankMaker LoadedModel::Impl::maker() const {
  return {.plan = [this](const parallel::Strategy& strategy) { return plan_for(strategy); },
          .make =
              [this](LoadPlan plan, MpiGroups groups) {
                model::WeightShard shard = stored_shard(info.config, plan.parallel, processes.ranks_here());
                StoredWeights stored = in_background([this, shard = std::move(shard)]() mutable {
                                         return read_weights(source(), std::move(shard), 1, {});
                                       }).get();
                return make_over_mpi(std::move(plan), std::move(stored), std::move(groups));
              }};
}

LoadedModel LoadedModel::load(const LoadOptions& options) {
  Resolved resolved = resolve(options);
  const parallel::Strategy strategy = choose_strategy(resolved.config, options.parallel);
  if (strategy.world() > 1 && !backend_of(resolved.formats.device).has_ranks) {
    throw_error("--device {}: one rank alone runs there, found strategy {}", options.device,
                parallel::to_string(strategy));
  }
  RankProcesses processes(options.parallel, strategy);
  require_agreement_of_ranks(resolved, options, strategy, processes);
  LoadPlan plan = plan_load(resolved, options, strategy, processes);
  const bool is_driver = processes.is_driver();
  if (is_driver && options.before_weights) options.before_weights();
  model::WeightShard shard = stored_shard(resolved.config, plan.parallel, processes.ranks_here());
  const int threads = num_threads(options, processes.num_on_this_host());
  ModelInfo info = describe(resolved, plan);
  auto impl = std::make_unique<Impl>(Impl{std::move(resolved.driver),
                                          std::move(processes),
                                          std::move(info),
                                          options,
                                          std::move(resolved.checkpoint),
                                          {},
                                          nullptr,
                                          nullptr,
                                          nullptr});
  impl->options.before_weights = nullptr;
  StoredWeights stored = read_weights(impl->source(), std::move(shard), threads,
                                      {.bar = options.show_progress && is_driver, .log = is_driver});
  if (comm::MpiWorld* const mpi = impl->processes.mpi(); mpi != nullptr) {
    impl->channel = std::make_unique<MpiChannel>(*mpi);
    const int rank = mpi->rank();
    MpiGroups groups = impl->channel->groups_of(plan.parallel.ranks[static_cast<size_t>(rank)].topology);
    impl->ranks = impl->make_over_mpi(std::move(plan), std::move(stored), std::move(groups));
    impl->mpi_ranks = std::make_unique<MpiRanks>(*impl->channel, impl->maker());
    if (rank == 0) impl->channel->begin();
  } else {
    impl->shared = std::move(stored);
    impl->checkpoint.reset();
    impl->ranks = impl->make_local(std::move(plan));
  }
  return LoadedModel(std::move(impl));
}

std::unique_ptr<PreparedRunner> LoadedModel::prepare(const parallel::Strategy& strategy,
                                                     const BetweenSteps& between_steps) const {
  const ModelInfo& info = impl_->info;
  parallel::check_strategy(strategy, model::sharded_sizes(info.config));
  if (strategy.world() > 1 && !backend_of(info.formats.device).has_ranks) {
    throw_error("device {}: one rank alone runs there, found strategy {}", info.device,
                parallel::to_string(strategy));
  }
  if (impl_->channel == nullptr) return impl_->make_local(impl_->plan_for(strategy));
  const int processes = impl_->channel->world().size();
  if (strategy.world() != processes) {
    throw_error("ranks over MPI: expected a strategy of {} ranks, one for each process, found {} of {}",
                processes, parallel::to_string(strategy), strategy.world());
  }
  return impl_->mpi_ranks->prepare(strategy, between_steps);
}

void LoadedModel::adopt(std::unique_ptr<PreparedRunner> prepared) {
  impl_->ranks = std::move(prepared);
}

void LoadedModel::drop(std::unique_ptr<PreparedRunner> prepared, const BetweenSteps& between_steps) {
  prepared.reset();
  if (impl_->mpi_ranks != nullptr) impl_->mpi_ranks->drop(between_steps);
}

LoadedModel::LoadedModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LoadedModel::LoadedModel(LoadedModel&&) noexcept = default;
LoadedModel& LoadedModel::operator=(LoadedModel&&) noexcept = default;
LoadedModel::~LoadedModel() = default;

bool LoadedModel::is_driver() const {
  return impl_->processes.is_driver();
}

int LoadedModel::serve_steps() {
  // A signal to the whole job asks rank 0 to drain; it needs the others for that, and tells them when to
  // stop.
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGINT, SIG_IGN);
  comm::MpiWorld& mpi = *impl_->processes.mpi();
  std::string failure;
  try {
    impl_->mpi_ranks->serve(impl_->ranks);
    return 0;
  } catch (const comm::CollectiveError& error) {
    failure = fmt::format("rank {} ends: {}", mpi.rank(), error.what());
  } catch (const std::exception& error) {
    failure = fmt::format("rank {} failed: {}", mpi.rank(), error.what());
    mpi.fail(mpi.rank(), error.what());
  }
  log::critical("{}", failure);
  log::flush();
  // mpirun loses what was printed just before the end, and rank 0 needs a moment to tell its clients.
  std::this_thread::sleep_for(kFarewell);
  std::_Exit(kRankFailed);
}

ModelRunner& LoadedModel::runner() {
  return *impl_->ranks->runner;
}
const ModelRunner& LoadedModel::runner() const {
  return *impl_->ranks->runner;
}
const ModelInfo& LoadedModel::info() const {
  return impl_->info;
}
Device LoadedModel::device() const {
  return impl_->device();
}

}  // namespace chorale::engine
