#include "engine/memory_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "base/memory_info.h"
#include "engine/model_runner.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace chorale::engine {
namespace {

int64_t choose_context_length(const io::ModelConfig& config, const LoadOptions& options) {
  if (options.context_length > config.max_position_embeddings) {
    throw_error("--context-length: expected at most the model's max_position_embeddings, {}, found {}",
                config.max_position_embeddings, options.context_length);
  }
  return options.context_length > 0 ? options.context_length : config.max_position_embeddings;
}

// The last token of a sequence is never written, but a block that is started counts whole.
int64_t blocks_of(int64_t tokens) {
  return ceil_div(tokens, kBlockTokens);
}

model::StepLimits choose_limits(const LoadOptions& options, int64_t context_length) {
  model::StepLimits limits;
  limits.max_tokens = options.chunked_prefill_size + options.max_running_requests;
  limits.max_chunks = options.max_running_requests;
  limits.max_table_blocks = options.max_running_requests * blocks_of(context_length);
  limits.max_logits_rows = std::max(options.max_logits_rows, options.max_running_requests);
  return limits;
}

std::string shortage(const MemoryPlan& plan, uint64_t needed, const char* advice) {
  return fmt::format(
      "the model does not fit: weights {}, activations {} and at least {} more are needed, {} is free; {}",
      format_bytes(plan.weights), format_bytes(plan.activations), format_bytes(needed),
      format_bytes(plan.available), advice);
}

// Tokens for the cache when the user does not say: a part of what is free, but no more than all running
// requests could fill.
int64_t size_cache(const MemoryPlan& plan, const LoadOptions& options, uint64_t block_bytes) {
  const uint64_t free = plan.available - std::min(plan.available, plan.weights + plan.activations);
  const auto budget = static_cast<uint64_t>(static_cast<double>(free) * options.mem_fraction);
  const auto fitting = static_cast<int64_t>(std::min<uint64_t>(budget / block_bytes, uint64_t{1} << 31));
  const int64_t useful = options.max_running_requests * blocks_of(plan.context_length);
  return std::min(fitting, useful) * kBlockTokens;
}

}  // namespace

MemoryPlan plan_memory(const io::ModelConfig& config, DType dtype, const LoadOptions& options,
                       uint64_t available) {
  MemoryPlan plan;
  plan.available = available;
  plan.context_length = choose_context_length(config, options);
  plan.limits = choose_limits(options, plan.context_length);
  plan.weights = model::plan_weights(config, dtype).bytes;
  plan.activations =
      model::Workspace::bytes(config, dtype, plan.limits) + model::StepBuffers::bytes(plan.limits);

  const auto block_bytes = static_cast<uint64_t>(model::KvCache::block_bytes(config, dtype));
  plan.kv_tokens = options.max_total_tokens > 0 ? round_up(options.max_total_tokens, kBlockTokens)
                                                : size_cache(plan, options, block_bytes);
  const uint64_t least =
      std::max<uint64_t>(static_cast<uint64_t>(plan.kv_tokens / kBlockTokens), 1) * block_bytes;
  plan.kv_cache = static_cast<uint64_t>(plan.kv_tokens / kBlockTokens) * block_bytes;
  if (plan.kv_tokens == 0 || plan.weights + plan.activations + plan.kv_cache > available) {
    const bool fixed_cache = options.max_total_tokens > 0;
    throw Error(shortage(
        plan, least,
        fixed_cache ? "lower --max-total-tokens, --max-running-requests or --chunked-prefill-size"
                    : "lower --max-running-requests or --chunked-prefill-size, or use a larger machine"));
  }
  return plan;
}

std::vector<std::string> MemoryPlan::table() const {
  const uint64_t taken = weights + kv_cache + activations;
  const auto row = [](const char* what, uint64_t bytes, const std::string& detail) {
    return fmt::format("  {:<12} {:>10}{}{}", what, format_bytes(bytes), detail.empty() ? "" : "  ", detail);
  };
  return {
      row("weights", weights, ""),
      row("KV cache", kv_cache,
          fmt::format("{} tokens, {} requests of {}", kv_tokens, kv_tokens / context_length, context_length)),
      row("activations", activations, fmt::format("steps of up to {} tokens", limits.max_tokens)),
      row("free after", available - std::min(available, taken),
          fmt::format("of {} now", format_bytes(available)))};
}

}  // namespace chorale::engine
