#include "engine/memory_plan.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "base/memory_info.h"
#include "engine/rank_sampler.h"
#include "kernels/backend.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace chorale::engine {
namespace {

// The last token of a sequence is never written, but a block that is started counts whole.
int64_t blocks_of(int64_t tokens, DeviceKind device) {
  return ceil_div(tokens, backend_of(device).kv_block_tokens);
}

// Blocks for a step that is planned ahead: a sequence seldom begins a block, and a step in which more do is
// planned when the one before it is over.
constexpr int64_t kMostSpareBlocks = 32;

int64_t choose_spare_blocks(const model::StepLimits& limits, DeviceKind device) {
  return device == DeviceKind::cpu ? 0 : std::min(limits.max_segments, kMostSpareBlocks);
}

std::string shortage(const MemoryPlan& plan, uint64_t needed, const std::string& advice) {
  return fmt::format(
      "the model does not fit: weights {}, activations {} and at least {} for the KV cache are needed, {} is "
      "free; {}",
      format_bytes(plan.weights), format_bytes(plan.activations), format_bytes(needed),
      format_bytes(plan.available), advice);
}

// The forms of the weights in which the rest would fit beside them, with the bytes that are needed in all.
std::string smaller_weights(const io::ModelConfig& config, const model::WeightFormats& formats,
                            const ParallelPlan& parallel, std::span<const int> here, uint64_t others,
                            uint64_t available) {
  const bool made_int8 = formats.quantization() == "int8";
  if (!backend_of(formats.device).has_quantized_weights) return "";
  if (formats.dtype != DType::bf16 || (formats.quantizes() && !made_int8)) return "";
  std::string advice;
  for (const auto& [name, format] :
       {std::pair("int8", WeightFormat::int8), std::pair("int4", WeightFormat::int4)}) {
    if (made_int8 && format == WeightFormat::int8) continue;
    model::WeightFormats smaller = formats;
    smaller.linear = smaller.head = format;
    const uint64_t needed = others + stored_bytes(config, smaller, parallel, here);
    if (needed > available) continue;
    advice += fmt::format("{}--quantization {} ({} in all)", advice.empty() ? "use " : " or ", name,
                          format_bytes(needed));
  }
  return advice.empty() ? "" : advice + ", or ";
}

// Blocks for the cache when the user does not say: a part of what is free, but no more than all running
// requests could fill.
int64_t size_cache(const MemoryPlan& plan, const LoadOptions& options, const model::StepLimits& limits,
                   uint64_t block_bytes, DeviceKind device) {
  const uint64_t free = plan.available - std::min(plan.available, plan.weights + plan.activations);
  const auto budget = static_cast<uint64_t>(static_cast<double>(free) * options.mem_fraction);
  const auto all = static_cast<int64_t>(std::min<uint64_t>(budget / block_bytes, uint64_t{1} << 31));
  const int64_t fitting = std::max<int64_t>(all - plan.spare_blocks, 0);
  return std::min(fitting, limits.max_segments * blocks_of(plan.context_length, device));
}

}  // namespace

int64_t choose_context_length(const io::ModelConfig& config, const LoadOptions& options) {
  if (options.context_length > config.max_position_embeddings) {
    throw_error("--context-length: expected at most the model's max_position_embeddings, {}, found {}",
                config.max_position_embeddings, options.context_length);
  }
  return options.context_length > 0 ? options.context_length : config.max_position_embeddings;
}

DType choose_kv_dtype(const io::ModelConfig& config, DType dtype, const LoadOptions& options) {
  const std::string& name = options.kv_cache_dtype;
  if (name == "auto") return dtype;
  if (name != "bfloat16" && name != "bf16" && name != "int8") {
    throw_error("--kv-cache-dtype: expected auto, bfloat16 or int8, found \"{}\"", name);
  }
  if (dtype != DType::bf16) {
    throw_error("--kv-cache-dtype {} needs --dtype bfloat16, found --dtype {}", name, name_of(dtype));
  }
  if (name == "int8" && !backend_of(kind_of_device(options.device)).has_int8_kv_cache) {
    throw_error("--kv-cache-dtype int8: a cache in int8 runs on the CPU alone, found --device {}",
                options.device);
  }
  const DType kv_dtype = name == "int8" ? DType::i8 : DType::bf16;
  const int64_t most = model::KvCache::layout(config, 1, kv_dtype).max_head_dim();
  if (config.head_dim > most) {
    throw_error("--kv-cache-dtype {}: expected a head_dim of at most {}, found {}", name, most,
                config.head_dim);
  }
  return kv_dtype;
}

model::StepLimits choose_limits(const io::ModelConfig& config, const LoadOptions& options,
                                int64_t num_dp_groups) {
  model::StepLimits limits;
  limits.max_segments = ceil_div(options.max_running_requests, num_dp_groups);
  limits.max_tokens = options.chunked_prefill_size + limits.max_segments;
  limits.max_table_blocks =
      limits.max_segments * blocks_of(choose_context_length(config, options), kind_of_device(options.device));
  limits.max_logits_rows = std::max(options.max_logits_rows, limits.max_segments);
  return limits;
}

MemoryPlan plan_memory(const io::ModelConfig& config, const model::WeightFormats& formats,
                       const LoadOptions& options, const ParallelPlan& parallel, std::span<const int> here,
                       uint64_t available) {
  MemoryPlan plan;
  plan.available = available;
  plan.num_dp_groups = parallel.strategy.dp_size;
  plan.context_length = choose_context_length(config, options);
  plan.kv_dtype = choose_kv_dtype(config, formats.dtype, options);
  const model::StepLimits limits = choose_limits(config, options, plan.num_dp_groups);
  plan.step_tokens = limits.max_tokens;
  plan.weights = stored_bytes(config, formats, parallel, here);
  uint64_t block_bytes = 0;  // of one block on every rank
  for (const int rank : here) {
    const model::RankExtent& extent = parallel.ranks[static_cast<size_t>(rank)].extent;
    plan.activations +=
        model::Workspace::bytes(config, formats, limits, extent) + model::StepBuffers::bytes(limits);
    if (extent.tp_rank == 0)
      plan.activations += RankSampler::bytes(sample_limits(config, limits, formats.device));
    block_bytes += static_cast<uint64_t>(
        model::KvCache::block_bytes(config, extent.kv_heads, plan.kv_dtype, formats.device));
  }

  plan.spare_blocks = choose_spare_blocks(limits, formats.device);
  const bool fixed = options.max_total_tokens > 0;
  const int64_t blocks = fixed ? blocks_of(options.max_total_tokens, formats.device)
                               : size_cache(plan, options, limits, block_bytes, formats.device);
  plan.kv_tokens = blocks * backend_of(formats.device).kv_block_tokens;
  plan.kv_cache = static_cast<uint64_t>(blocks + plan.spare_blocks) * block_bytes;
  if (blocks == 0 || plan.weights + plan.activations + plan.kv_cache > available) {
    const uint64_t cache = std::max<uint64_t>(plan.kv_cache, block_bytes);
    throw Error(shortage(
        plan, cache,
        smaller_weights(config, formats, parallel, here, plan.activations + cache, available) +
            (fixed ? "lower --max-total-tokens, --max-running-requests or --chunked-prefill-size"
                   : "lower --max-running-requests or --chunked-prefill-size, or use a larger machine")));
  }
  return plan;
}

std::vector<std::string> MemoryPlan::table() const {
  const uint64_t taken = weights + kv_cache + activations;
  const auto row = [](const char* what, uint64_t bytes, const std::string& detail) {
    return fmt::format("  {:<12} {:>10}{}{}", what, format_bytes(bytes), detail.empty() ? "" : "  ", detail);
  };
  const std::string requests =
      kv_tokens < context_length
          ? fmt::format("less than one request of {}", context_length)
          : fmt::format("{} requests of {}", kv_tokens / context_length, context_length);
  const std::string groups = num_dp_groups > 1 ? fmt::format("{} groups of ", num_dp_groups) : "";
  return {row("weights", weights, ""),
          row("KV cache", kv_cache,
              fmt::format("{}{} tokens in {}, {}", groups, kv_tokens, name_of(kv_dtype), requests)),
          row("activations", activations, fmt::format("steps of up to {} tokens", step_tokens)),
          row("free after", available - std::min(available, taken),
              fmt::format("of {} now", format_bytes(available)))};
}

std::vector<std::string> rank_lines(const io::ModelConfig& config, const model::WeightFormats& formats,
                                    const ParallelPlan& parallel, int64_t kv_tokens) {
  std::vector<std::string> lines;
  int first_sparse = 0;
  while (first_sparse + 1 < config.num_hidden_layers && !config.is_sparse_layer(first_sparse)) ++first_sparse;
  for (const RankPart& part : parallel.ranks) {
    const parallel::Topology& t = part.topology;
    std::string experts = "no experts";
    if (config.num_experts > 0) {
      experts = !parallel.tokens_travel()
                    ? "all experts"
                    : "experts " + parallel::experts_of_rank(parallel.placement, first_sparse,
                                                             t.moe_expert_parallel_rank());
      if (t.moe_tensor_parallel_world_size() > 1) {
        experts += fmt::format(" (part {} of {})", t.moe_tensor_parallel_rank() + 1,
                               t.moe_tensor_parallel_world_size());
      }
    }
    lines.push_back(fmt::format(
        "  rank {:<3} DP {} TP {}: {} query heads, {} KV heads, {}, weights {}, KV {} tokens", t.rank(),
        t.data_parallel_rank(), t.tensor_model_parallel_rank(), part.extent.query_heads, part.extent.kv_heads,
        experts, format_bytes(weight_bytes(config, formats, part)), kv_tokens));
  }
  return lines;
}

}  // namespace chorale::engine
