#include "engine/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/instruction_set.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "base/progress_bar.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "engine/local_runner.h"
#include "engine/memory_plan.h"
#include "io/checkpoint.h"
#include "model/weight_loader.h"

namespace chorale::engine {
namespace {

constexpr size_t kMaxNamedTensors = 8;  // in warnings

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
            options.model_path.string(), config.architecture, config.num_hidden_layers, config.hidden_size,
            config.num_experts, config.num_experts_per_tok, config.num_attention_heads,
            config.num_key_value_heads);
}

void warn_of_nan(const std::vector<std::string>& names) {
  for (size_t i = 0; i < std::min(names.size(), kMaxNamedTensors); ++i)
    log::warn("tensor {} has NaN values", names[i]);
  if (names.size() > kMaxNamedTensors) {
    log::warn("{} more tensors have NaN values", names.size() - kMaxNamedTensors);
  }
}

void fill(const io::Checkpoint* checkpoint, const model::WeightPlan& plan, const LoadOptions& options,
          std::byte* base, ThreadPool& pool) {
  const uint64_t bytes = checkpoint != nullptr ? model::bytes_to_load(*checkpoint, plan) : plan.bytes;
  ProgressBar progress("Loading weights", bytes, options.show_progress);
  if (checkpoint != nullptr) {
    warn_of_nan(model::load_weights(*checkpoint, plan, base, pool, progress));
  } else {
    model::fill_random_weights(plan, options.dummy_seed, base, pool, progress);
  }
  const double seconds = progress.seconds();
  log::info("weights: {} in {:.2f} s ({:.2f} GB/s)", format_bytes(bytes), seconds,
            static_cast<double>(bytes) / 1e9 / std::max(seconds, 1e-9));
}

}  // namespace

struct LoadedModel::Impl {
  Impl(io::ModelConfig c, io::GenerationDefaults d, DType type, InstructionSet set, int threads)
      : config(std::move(c)), defaults(std::move(d)), dtype(type), isa(set), pool(threads) {}

  io::ModelConfig config;
  io::GenerationDefaults defaults;
  DType dtype;
  InstructionSet isa;
  MemoryPlan memory;
  ThreadPool pool;
  Buffer weights;
  std::unique_ptr<LocalRunner> runner;
};

LoadedModel LoadedModel::load(const LoadOptions& options) {
  const DType dtype = compute_dtype(options.dtype);
  const InstructionSet isa = select_instruction_set(options.instruction_set);
  const bool dummy = is_dummy(options);
  auto impl = std::make_unique<Impl>(io::load_model_config(options.model_path),
                                     io::load_generation_defaults(options.model_path), dtype, isa,
                                     options.threads > 0 ? options.threads : available_cores());
  std::optional<io::Checkpoint> checkpoint;
  if (!dummy) {
    checkpoint = io::Checkpoint::open(options.model_path);
    model::check_tensors(*checkpoint, impl->config);
  }
  log_model(impl->config, options);
  log::info("computing in {} with {} instructions on {} threads", name_of(dtype), name_of(isa),
            impl->pool.size());

  impl->memory = plan_memory(impl->config, dtype, options, available_memory());
  log::info("memory:");
  for (const std::string& line : impl->memory.table()) log::info("{}", line);

  const model::WeightPlan plan = model::plan_weights(impl->config, dtype);
  impl->weights = Buffer(plan.bytes);
  fill(checkpoint ? &*checkpoint : nullptr, plan, options, impl->weights.data(), impl->pool);
  impl->runner = std::make_unique<LocalRunner>(
      LocalRunner::Parts{.config = impl->config,
                         .weights = model::bind_weights(impl->config, dtype, impl->weights.data()),
                         .limits = impl->memory.limits,
                         .num_blocks = impl->memory.kv_tokens / kBlockTokens,
                         .stream = Stream(impl->pool, isa)});
  return LoadedModel(std::move(impl));
}

LoadedModel::LoadedModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LoadedModel::LoadedModel(LoadedModel&&) noexcept = default;
LoadedModel& LoadedModel::operator=(LoadedModel&&) noexcept = default;
LoadedModel::~LoadedModel() = default;

ModelRunner& LoadedModel::runner() {
  return *impl_->runner;
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
std::string LoadedModel::dtype_name() const {
  return std::string(name_of(impl_->dtype));
}
std::string LoadedModel::instruction_set_name() const {
  return std::string(name_of(impl_->isa));
}
int LoadedModel::num_threads() const {
  return impl_->pool.size();
}

}  // namespace chorale::engine
