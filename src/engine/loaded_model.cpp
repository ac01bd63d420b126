#include "engine/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <numeric>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/instruction_set.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "base/progress_bar.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "comm/mpi/mpi_world.h"
#include "engine/local_runner.h"
#include "engine/memory_plan.h"
#include "engine/mpi_runner.h"
#include "io/checkpoint.h"
#include "model/weight_loader.h"

namespace chorale::engine {
namespace {

constexpr size_t kMaxNamedTensors = 8;  // in warnings
constexpr std::chrono::milliseconds kFarewell{500};
constexpr int kRankFailed = 70;

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

void log_model(const io::ModelConfig& config, const LoadOptions& options) {
  log::info("{}: {}, {} layers, hidden size {}, {} experts, {} per token, {} attention heads, {} KV heads",
            options.config ? "no files" : options.model_path.string(), config.architecture,
            config.num_hidden_layers, config.hidden_size, config.num_experts, config.num_experts_per_tok,
            config.num_attention_heads, config.num_key_value_heads);
}

void warn_of_nan(const std::vector<std::string>& names) {
  for (size_t i = 0; i < std::min(names.size(), kMaxNamedTensors); ++i)
    log::warn("tensor {} has NaN values", names[i]);
  if (names.size() > kMaxNamedTensors) {
    log::warn("{} more tensors have NaN values", names.size() - kMaxNamedTensors);
  }
}

// `tells`: this process writes the log of all.
void fill(const io::Checkpoint* checkpoint, const model::WeightPlan& plan, const LoadOptions& options,
          std::byte* base, ThreadPool& pool, bool tells) {
  const uint64_t bytes = checkpoint != nullptr ? model::bytes_to_load(*checkpoint, plan) : plan.bytes;
  ProgressBar progress("Loading weights", bytes, options.show_progress && tells);
  if (checkpoint != nullptr) {
    warn_of_nan(model::load_weights(*checkpoint, plan, base, pool, progress));
  } else {
    model::fill_random_weights(plan, options.dummy_seed, base, pool, progress);
  }
  const double seconds = progress.seconds();
  if (!tells) return;
  log::info("weights: {} in {:.2f} s ({:.2f} GB/s)", format_bytes(bytes), seconds,
            static_cast<double>(bytes) / 1e9 / std::max(seconds, 1e-9));
}

}  // namespace

model::WeightFormats choose_formats(const io::ModelConfig& config, const LoadOptions& options) {
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

struct LoadedModel::Impl {
  io::ModelConfig config;
  io::GenerationDefaults defaults;
  model::WeightFormats formats;
  InstructionSet isa = InstructionSet::portable;
  int threads_per_rank = 1;
  MemoryPlan memory;
  std::optional<ParallelPlan> parallel;
  Buffer memory_of_weights;
  model::WeightShard stored;
  model::ModelWeights weights;
  // Exactly one of the two kinds of ranks.
  std::unique_ptr<LocalRunner> local;
  std::unique_ptr<comm::MpiWorld> mpi;
  std::unique_ptr<MpiRunner> mpi_runner;

  bool is_driver() const { return mpi == nullptr || mpi->rank() == 0; }
};

namespace {

int threads_of_rank(const LoadOptions& options, int ranks_here) {
  return options.threads > 0 ? options.threads : std::max(1, available_cores() / ranks_here);
}

void log_plan(const LoadedModel::Impl& impl) {
  const ParallelPlan& plan = *impl.parallel;
  if (plan.strategy.world() > 1) {
    log::info("strategy {}: {} ranks{}, {}", parallel::to_string(plan.strategy), plan.strategy.world(),
              impl.mpi != nullptr ? " over MPI" : " in this process",
              plan.tokens_travel() ? "tokens travel to their experts" : "no token travels");
    for (const std::string& line : rank_lines(impl.config, impl.formats, plan, impl.memory.kv_tokens)) {
      log::info("{}", line);
    }
  }
  log::info("memory{}:", impl.mpi != nullptr ? " of rank 0" : "");
  for (const std::string& line : impl.memory.table()) log::info("{}", line);
}

bool uses_mpi(const ParallelOptions& options) {
  if (options.communicator == "auto") return comm::MpiWorld::is_launched_by_mpi();
  return options.communicator == "mpi";
}

std::unique_ptr<comm::MpiWorld> join_mpi(const LoadOptions& options, const parallel::Strategy& strategy) {
  const auto limit =
      std::chrono::milliseconds(static_cast<int64_t>(options.parallel.collective_timeout * 1000));
  auto mpi = std::make_unique<comm::MpiWorld>(comm::MpiOptions{.time_limit = limit});
  if (mpi->size() != strategy.world()) {
    throw_error(
        "--communicator mpi: the strategy {} has {} ranks, but {} processes were started; start as many, or "
        "change "
        "--tp-size and --dp-size so that their product is {}",
        parallel::to_string(strategy), strategy.world(), mpi->size(), mpi->size());
  }
  return mpi;
}

// A number per rank, the same for ranks of one host.
std::vector<int> number_hosts(const parallel::Strategy& strategy, const comm::MpiWorld* mpi) {
  std::vector<int> numbers(static_cast<size_t>(strategy.world()), 0);
  if (mpi == nullptr) return numbers;
  std::map<std::string, int> seen;
  for (int rank = 0; rank < strategy.world(); ++rank) {
    numbers[static_cast<size_t>(rank)] =
        seen.emplace(mpi->host_of(rank), static_cast<int>(seen.size())).first->second;
  }
  return numbers;
}

// Ranks whose memory is this process's.
std::vector<int> ranks_here(const parallel::Strategy& strategy, const comm::MpiWorld* mpi) {
  if (mpi != nullptr) return {mpi->rank()};
  std::vector<int> all(static_cast<size_t>(strategy.world()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// Processes of one host share its memory and cores.
int processes_here(const comm::MpiWorld* mpi) {
  return mpi == nullptr ? 1 : static_cast<int>(mpi->ranks_on_this_host().size());
}

// What every rank can do: the smallest of their numbers.
int64_t least_of_all(int64_t mine, const comm::MpiWorld* mpi) {
  if (mpi == nullptr) return mine;
  const auto size = static_cast<size_t>(mpi->size());
  std::vector<int64_t> all(size);
  std::vector<int64_t> sizes;
  for (size_t rank = 0; rank < size; ++rank) sizes.push_back(sizeof(int64_t));
  mpi->transport()->all_gather(std::as_bytes(std::span(&mine, 1)), sizes,
                               std::as_writable_bytes(std::span(all)));
  return *std::min_element(all.begin(), all.end());
}

}  // namespace

LoadedModel LoadedModel::load(const LoadOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->isa = select_instruction_set(options.instruction_set);
  const bool dummy = is_dummy(options);
  CHORALE_CHECK(dummy || !options.config, "a configuration without files");
  impl->config = options.config ? *options.config : io::load_model_config(options.model_path);
  impl->formats = choose_formats(impl->config, options);
  if (!options.config) impl->defaults = io::load_generation_defaults(options.model_path);
  std::optional<io::Checkpoint> checkpoint;
  if (!dummy) {
    checkpoint = io::Checkpoint::open(options.model_path);
    model::check_tensors(*checkpoint, impl->config);
  }

  const parallel::Strategy strategy = choose_strategy(impl->config, options.parallel);
  if (uses_mpi(options.parallel)) impl->mpi = join_mpi(options, strategy);
  // Ranks on different processors would compute different bits; the sets are in order of what they need.
  impl->isa = static_cast<InstructionSet>(least_of_all(static_cast<int64_t>(impl->isa), impl->mpi.get()));
  const bool tells = impl->is_driver();
  const model::StepLimits limits = choose_limits(impl->config, options, strategy.dp_size);
  impl->parallel =
      plan_parallel(impl->config, options.parallel, limits, number_hosts(strategy, impl->mpi.get()));
  const std::vector<int> here = ranks_here(strategy, impl->mpi.get());
  impl->threads_per_rank =
      threads_of_rank(options, static_cast<int>(here.size()) * processes_here(impl->mpi.get()));
  if (tells) {
    log_model(impl->config, options);
    const std::string weights =
        impl->formats.quantizes() ? fmt::format(" with {} weights", impl->formats.quantization()) : "";
    log::info("computing in {}{} with {} instructions on {} thread{}{}", name_of(impl->formats.dtype),
              weights, name_of(impl->isa), impl->threads_per_rank, impl->threads_per_rank == 1 ? "" : "s",
              strategy.world() > 1 ? " for each rank" : "");
  }
  impl->memory = plan_memory(impl->config, impl->formats, options, *impl->parallel, here,
                             available_memory() / static_cast<uint64_t>(processes_here(impl->mpi.get())));
  impl->memory.kv_tokens = least_of_all(impl->memory.kv_tokens, impl->mpi.get());
  if (tells) log_plan(*impl);

  impl->stored = impl->mpi == nullptr
                     ? model::whole_model(impl->config)
                     : model::storage_for(impl->parallel->ranks[static_cast<size_t>(here[0])].shard);
  const model::WeightPlan plan = model::plan_weights(impl->config, impl->formats, impl->stored);
  impl->memory_of_weights = Buffer(plan.bytes);
  ThreadPool loading(options.threads > 0 ? options.threads
                                         : std::max(1, available_cores() / processes_here(impl->mpi.get())));
  fill(checkpoint ? &*checkpoint : nullptr, plan, options, impl->memory_of_weights.data(), loading, tells);
  impl->weights =
      model::bind_weights(impl->config, impl->formats, impl->stored, impl->memory_of_weights.data());

  const RunnerParts parts{.config = impl->config,
                          .plan = *impl->parallel,
                          .weights = impl->weights,
                          .stored = impl->stored,
                          .limits = limits,
                          .num_blocks = impl->memory.kv_tokens / kBlockTokens,
                          .kv_dtype = impl->memory.kv_dtype,
                          .isa = impl->isa,
                          .threads_per_rank = impl->threads_per_rank,
                          .collective_timeout = options.parallel.collective_timeout,
                          .fault = options.parallel.fault,
                          .profile = options.profile};
  if (impl->mpi != nullptr) {
    impl->mpi_runner = std::make_unique<MpiRunner>(parts, *impl->mpi);
  } else {
    impl->local = std::make_unique<LocalRunner>(parts);
  }
  return LoadedModel(std::move(impl));
}

LoadedModel::LoadedModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LoadedModel::LoadedModel(LoadedModel&&) noexcept = default;
LoadedModel& LoadedModel::operator=(LoadedModel&&) noexcept = default;
LoadedModel::~LoadedModel() = default;

bool LoadedModel::is_driver() const {
  return impl_->is_driver();
}

int LoadedModel::serve_steps() {
  // A signal to the whole job asks rank 0 to drain; it needs the others for that, and tells them when to
  // stop.
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGINT, SIG_IGN);
  std::string failure;
  try {
    impl_->mpi_runner->serve_steps();
    return 0;
  } catch (const comm::CollectiveError& error) {
    failure = fmt::format("rank {} ends: {}", impl_->mpi->rank(), error.what());
  } catch (const std::exception& error) {
    failure = fmt::format("rank {} failed: {}", impl_->mpi->rank(), error.what());
    impl_->mpi->fail(impl_->mpi->rank(), error.what());
  }
  log::critical("{}", failure);
  log::flush();
  // mpirun loses what was printed just before the end, and rank 0 needs a moment to tell its clients.
  std::this_thread::sleep_for(kFarewell);
  std::_Exit(kRankFailed);
}

ModelRunner& LoadedModel::runner() {
  if (impl_->local != nullptr) return *impl_->local;
  return *impl_->mpi_runner;
}
uint64_t LoadedModel::weight_bytes() const {
  return impl_->memory.weights;
}
int64_t LoadedModel::kv_tokens_total() const {
  return impl_->memory.kv_tokens * impl_->memory.num_groups;
}
std::vector<comm::Traffic> LoadedModel::traffic() const {
  return impl_->local != nullptr ? impl_->local->traffic() : std::vector{impl_->mpi_runner->traffic()};
}
std::vector<int64_t> LoadedModel::expert_load() const {
  return impl_->local != nullptr ? impl_->local->expert_load() : std::vector<int64_t>{};
}
std::vector<std::vector<int64_t>> LoadedModel::expert_load_by_rank() const {
  return impl_->local != nullptr ? impl_->local->expert_load_by_rank() : std::vector<std::vector<int64_t>>{};
}
const io::ModelConfig& LoadedModel::config() const {
  return impl_->config;
}
const io::GenerationDefaults& LoadedModel::generation_defaults() const {
  return impl_->defaults;
}

std::vector<int32_t> LoadedModel::eos_token_ids() const {
  const auto& ids =
      impl_->defaults.eos_token_ids.empty() ? impl_->config.eos_token_ids : impl_->defaults.eos_token_ids;
  return {ids.begin(), ids.end()};
}

int64_t LoadedModel::max_total_tokens() const {
  return impl_->memory.kv_tokens;
}
int64_t LoadedModel::max_context_len() const {
  return std::min(impl_->memory.context_length, impl_->memory.kv_tokens);
}
DType LoadedModel::dtype() const {
  return impl_->formats.dtype;
}
DType LoadedModel::kv_dtype() const {
  return impl_->memory.kv_dtype;
}
std::string LoadedModel::dtype_name() const {
  return std::string(name_of(impl_->formats.dtype));
}
const model::WeightFormats& LoadedModel::formats() const {
  return impl_->formats;
}
std::string LoadedModel::quantization_name() const {
  return std::string(impl_->formats.quantization());
}
std::string LoadedModel::instruction_set_name() const {
  return std::string(name_of(impl_->isa));
}
const ParallelPlan& LoadedModel::parallel_plan() const {
  return *impl_->parallel;
}
int LoadedModel::num_threads() const {
  return impl_->threads_per_rank;
}

}  // namespace chorale::engine
