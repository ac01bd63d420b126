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
#include "engine/rank_devices.h"
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
  std::optional<io::Checkpoint> checkpoint;  // absent: random weights
};

Resolved resolve(const LoadOptions& options) {
  Resolved resolved;
  resolved.instruction_set = select_instruction_set(options.instruction_set);
  const bool dummy = is_dummy(options);
  CHORALE_CHECK(dummy || !options.config, "a configuration without files");
  resolved.config = options.config ? *options.config : io::load_model_config(options.model_path);
  resolved.config.max_tp_size = options.parallel.max_tp_size;
  resolved.formats = choose_formats(resolved.config, options);
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

void log_model(const Resolved& resolved, const LoadPlan& plan, const LoadOptions& options,
               const std::vector<Device>& devices) {
  const io::ModelConfig& config = resolved.config;
  log::info("{}: {}, {} layers, hidden size {}, {} experts, {} per token, {} attention heads, {} KV heads",
            options.config ? "no files" : options.model_path.string(), config.architecture,
            config.num_hidden_layers, config.hidden_size, config.num_experts, config.num_experts_per_tok,
            config.num_attention_heads, config.num_key_value_heads);
  const std::string weights =
      resolved.formats.quantizes() ? fmt::format(" with {} weights", resolved.formats.quantization()) : "";
  if (!devices[0].is_cpu()) {
    log::info("computing in {} on {}", name_of(resolved.formats.dtype), describe_devices(devices));
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

void log_plan(const Resolved& resolved, const LoadPlan& plan, const Device& device, bool over_mpi) {
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
  log::info("memory{}{}:", over_mpi ? " of rank 0" : "", device.is_cpu() ? "" : " of " + device.name());
  for (const std::string& line : plan.memory.table()) log::info("{}", line);
}

void refuse_moving_experts(const LoadOptions& options, const ParallelPlan& plan) {
  if (options.parallel.enable_eplb && plan.ranks_store_apart)
    throw_error("--device {}: experts move (--enable-eplb) on the CPU alone", options.device);
}

// Collective.
void require_agreement_of_ranks(const Resolved& resolved, const LoadOptions& options,
                                const parallel::Strategy& strategy, const RankProcesses& processes,
                                const Device& device) {
  if (processes.mpi() != nullptr) {
    const RankInputs inputs{.options = options,
                            .config = resolved.config,
                            .formats = resolved.formats,
                            .strategy = strategy,
                            .checkpoint = resolved.checkpoint ? &*resolved.checkpoint : nullptr,
                            .device = device.name()};
    require_agreement(*processes.mpi(),
                      what_was_given(inputs, num_threads(options, processes.num_on_this_host())));
  }
  processes.require_world();
}

// Collective.
LoadPlan plan_load(const Resolved& resolved, const LoadOptions& options, const parallel::Strategy& strategy,
                   const RankProcesses& processes, RankDevices& rank_devices) {
  const std::vector<Device> devices = rank_devices.of_ranks(strategy.world());
  const int sharers = devices[0].is_cpu() ? processes.num_on_this_host() : rank_devices.sharers();
  // Ranks on different processors would compute different bits; the sets are in order of what they need.
  const auto instruction_set =
      static_cast<InstructionSet>(processes.least_of_all(static_cast<int64_t>(resolved.instruction_set)));
  const int sharing_cores = static_cast<int>(processes.ranks_here().size()) * processes.num_on_this_host();
  const model::StepLimits limits = choose_limits(resolved.config, options, strategy.dp_size);
  LoadPlan plan{
      .limits = limits,
      .parallel = plan_parallel(resolved.config, options.parallel, limits, processes.host_numbers()),
      .instruction_set = instruction_set,
      .threads_per_rank = num_threads(options, sharing_cores),
      .memory = {}};
  plan.parallel.ranks_store_apart = store_apart(strategy, devices);
  refuse_moving_experts(options, plan.parallel);
  if (processes.is_driver()) {
    log_limits(options.threads * sharing_cores);
    log_model(resolved, plan, options, devices);
  }
  plan.memory = plan_of_devices(resolved.config, resolved.formats, options, plan.parallel,
                                processes.ranks_here(), {devices, sharers});
  plan.memory.kv_tokens = processes.least_of_all(plan.memory.kv_tokens);
  if (processes.is_driver()) log_plan(resolved, plan, devices[0], processes.mpi() != nullptr);
  return plan;
}

ModelInfo describe(const Resolved& resolved, const LoadPlan& plan, const Device& device) {
  const std::vector<int64_t>& eos = resolved.defaults.eos_token_ids.empty() ? resolved.config.eos_token_ids
                                                                            : resolved.defaults.eos_token_ids;
  return {.config = resolved.config,
          .generation_defaults = resolved.defaults,
          .eos_token_ids = {eos.begin(), eos.end()},
          .formats = resolved.formats,
          .kv_dtype = plan.memory.kv_dtype,
          .device = device.name(),
          .device_description = device.is_cpu() ? "" : device.description(),
          .instruction_set = plan.instruction_set,
          .num_threads = plan.threads_per_rank,
          .parallel = plan.parallel,
          .weight_bytes = plan.memory.weights,
          .max_total_tokens = plan.memory.kv_tokens,
          .max_context_len = std::min(plan.memory.context_length, plan.memory.kv_tokens)};
}

}  // namespace

// Each member uses those before it.
struct LoadedModel::Impl {
  RankProcesses processes;
  mutable RankDevices devices;  // of this process's ranks; more as other strategies need them
  ModelInfo info;
  LoadOptions options;  // as they were given
  std::optional<io::Checkpoint>
      checkpoint;                         // over MPI, where ranks of other strategies read it; absent: random
  StoredWeights shared;                   // the whole model, where all ranks are in this process
  std::unique_ptr<MpiChannel> channel;    // null there
  std::unique_ptr<PreparedRunner> ranks;  // those that run
  std::unique_ptr<MpiRanks> mpi_ranks;    // null without the channel

  Device device() const { return devices.first(); }

  WeightSource source(const Device& device) const {
    return {.config = info.config,
            .formats = info.formats,
            .checkpoint = checkpoint ? &*checkpoint : nullptr,
            .seed = options.dummy_seed,
            .device = device};
  }

  RunnerParts parts_of(const ParallelPlan& parallel, std::vector<const StoredWeights*> stored,
                       const LoadPlan& plan, std::vector<Device> on) const {
    return {.config = info.config,
            .plan = parallel,
            .stored = std::move(stored),
            .limits = plan.limits,
            .num_blocks = plan.memory.kv_tokens / info.block_tokens() + plan.memory.spare_blocks,
            .num_spare_blocks = plan.memory.spare_blocks,
            .kv_dtype = plan.memory.kv_dtype,
            .devices = std::move(on),
            .collectives = comm::parse_collectives(options.parallel.collectives),
            .isa = plan.instruction_set,
            .threads_per_rank = plan.threads_per_rank,
            .collective_timeout = options.parallel.collective_timeout,
            .records_steps = options.records_steps,
            .fault = ranks == nullptr ? options.parallel.fault : std::nullopt,  // for the first ranks
            .profile = options.profile};
  }

  std::unique_ptr<PreparedRunner> make_local(LoadPlan plan, int threads, ReadingNews news) const;
  // The weights are what the rank stores.
  std::unique_ptr<PreparedRunner> make_over_mpi(LoadPlan plan, StoredWeights stored, MpiGroups groups) const;
  model::WeightShard own_shard(const ParallelPlan& plan) const;
  LoadPlan plan_for(const parallel::Strategy& strategy) const;
  bool has_shared() const { return shared.memory.size() > 0; }
  // Processes that share this one's device, or the host.
  int sharers() const { return device().is_cpu() ? processes.num_on_this_host() : devices.sharers(); }
  RankMaker maker() const;
  void start_process(LoadPlan plan, int threads, ReadingNews news);
};

std::unique_ptr<PreparedRunner> LoadedModel::Impl::make_local(LoadPlan plan, int threads,
                                                              ReadingNews news) const {
  auto made = std::make_unique<PreparedRunner>(
      PreparedRunner{std::move(plan.parallel), plan.memory.kv_tokens, {}, nullptr});
  const auto world = static_cast<int>(made->plan.ranks.size());
  std::vector<Device> on = devices.of_ranks(world);
  std::vector<const StoredWeights*> used;
  if (!made->plan.ranks_store_apart && has_shared()) {
    used.push_back(&shared);
  } else if (!made->plan.ranks_store_apart) {
    made->stored.push_back(read_weights(source(on[0]), model::whole_model(info.config), threads, news));
  } else {
    for (int rank = 0; rank < world; ++rank) {
      const Device& device = on.size() == 1 ? on[0] : on[static_cast<size_t>(rank)];
      made->stored.push_back(
          read_weights(source(device), shard_of_rank(info.config, made->plan, rank), threads, news));
    }
  }
  for (const StoredWeights& own : made->stored) used.push_back(&own);
  made->runner = std::make_unique<LocalRunner>(parts_of(made->plan, std::move(used), plan, std::move(on)));
  return made;
}

std::unique_ptr<PreparedRunner> LoadedModel::Impl::make_over_mpi(LoadPlan plan, StoredWeights stored,
                                                                 MpiGroups groups) const {
  auto made = std::make_unique<PreparedRunner>(
      PreparedRunner{std::move(plan.parallel), plan.memory.kv_tokens, {}, nullptr});
  made->stored.push_back(std::move(stored));
  StoredWeights& own = made->stored[0];
  made->runner = std::make_unique<MpiRunner>(MpiParts{.parts = parts_of(made->plan, {&own}, plan, {device()}),
                                                      .stored = own,
                                                      .source = source(device()),
                                                      .channel = *channel,
                                                      .groups = std::move(groups)});
  return made;
}

// What the one rank of this process stores.
model::WeightShard LoadedModel::Impl::own_shard(const ParallelPlan& plan) const {
  const std::vector<int>& here = processes.ranks_here();
  return plan.ranks_store_apart ? shard_of_rank(info.config, plan, here[0])
                                : stored_shard(info.config, plan, here);
}

// What runs keeps its memory until the switch is made. Ranks of one process have their weights already.
LoadPlan LoadedModel::Impl::plan_for(const parallel::Strategy& strategy) const {
  LoadOptions wanted = options;
  wanted.parallel = options_for(options.parallel, strategy);
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
  const std::vector<Device> on = devices.of_ranks(strategy.world());
  plan.parallel.ranks_store_apart = store_apart(strategy, on);
  refuse_moving_experts(wanted, plan.parallel);
  const bool shares = !over_mpi && !plan.parallel.ranks_store_apart && has_shared();
  plan.memory = plan_of_devices(info.config, info.formats, wanted, plan.parallel, here,
                                {on, sharers(), shares ? info.weight_bytes : 0});
  return plan;
}

// Weights are read so that steps keep the cores; the rank's own threads are made by one that has its share.
RankMaker LoadedModel::Impl::maker() const {
  return {.plan = [this](const parallel::Strategy& strategy) { return plan_for(strategy); },
          .make =
              [this](LoadPlan plan, MpiGroups groups) {
                model::WeightShard shard = own_shard(plan.parallel);
                StoredWeights stored = in_background([this, shard = std::move(shard)]() mutable {
                                         return read_weights(source(device()), std::move(shard), 1, {});
                                       }).get();
                return make_over_mpi(std::move(plan), std::move(stored), std::move(groups));
              }};
}

LoadedModel LoadedModel::load(const LoadOptions& options) {
  Resolved resolved = resolve(options);
  const parallel::Strategy strategy = choose_strategy(resolved.config, options.parallel);
  RankProcesses processes(options.parallel, strategy);
  RankDevices devices(options, strategy.world(), processes);
  comm::parse_collectives(options.parallel.collectives);
  require_agreement_of_ranks(resolved, options, strategy, processes, devices.first());
  LoadPlan plan = plan_load(resolved, options, strategy, processes, devices);
  const bool is_driver = processes.is_driver();
  if (is_driver && options.before_weights) options.before_weights();
  const int threads = num_threads(options, processes.num_on_this_host());
  ModelInfo info = describe(resolved, plan, devices.first());
  auto impl = std::make_unique<Impl>(Impl{std::move(processes),
                                          std::move(devices),
                                          std::move(info),
                                          options,
                                          std::move(resolved.checkpoint),
                                          {},
                                          nullptr,
                                          nullptr,
                                          nullptr});
  impl->options.before_weights = nullptr;
  const ReadingNews news{.bar = options.show_progress && is_driver, .log = is_driver};
  if (impl->processes.mpi() != nullptr) {
    impl->start_process(std::move(plan), threads, news);
  } else {
    if (!plan.parallel.ranks_store_apart) {
      impl->shared =
          read_weights(impl->source(impl->device()), model::whole_model(impl->info.config), threads, news);
    }
    impl->ranks = impl->make_local(std::move(plan), threads, news);
    // Ranks of another strategy may store other parts.
    if (impl->device().is_host_memory()) impl->checkpoint.reset();
  }
  return LoadedModel(std::move(impl));
}

// Over MPI.
void LoadedModel::Impl::start_process(LoadPlan plan, int threads, ReadingNews news) {
  comm::MpiWorld& mpi = *processes.mpi();
  StoredWeights stored = read_weights(source(device()), own_shard(plan.parallel), threads, news);
  channel = std::make_unique<MpiChannel>(
      mpi,
      comm::link_process(mpi.transport(), device(), comm::parse_collectives(options.parallel.collectives),
                         [&mpi] { return mpi.failure(); }));
  MpiGroups groups = channel->groups_of(plan.parallel.ranks[static_cast<size_t>(mpi.rank())].topology);
  ranks = make_over_mpi(std::move(plan), std::move(stored), std::move(groups));
  mpi_ranks = std::make_unique<MpiRanks>(*channel, maker());
  if (mpi.rank() == 0) channel->begin();
}

std::unique_ptr<PreparedRunner> LoadedModel::prepare(const parallel::Strategy& strategy,
                                                     const BetweenSteps& between_steps) const {
  const ModelInfo& info = impl_->info;
  parallel::check_strategy(strategy, model::sharded_sizes(info.config));
  if (impl_->channel == nullptr)
    return impl_->make_local(impl_->plan_for(strategy), num_threads(impl_->options, 1), {});
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
