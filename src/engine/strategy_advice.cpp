#include "engine/strategy_advice.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <tuple>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "engine/loaded_model.h"
#include "engine/memory_plan.h"
#include "engine/parallel_plan.h"
#include "kernels/backend.h"
#include "model/kv_cache.h"
#include "model/weights.h"

namespace chorale::engine {
namespace {

using parallel::Strategy;

constexpr std::string_view kObjectives[] = {"throughput", "ttft", "itl", "memory"};

// Bytes of one element of the first packed matrix with this name, scales and padding included.
double bytes_of_element(const model::WeightPlan& plan, std::string_view name) {
  for (const model::WeightPlace& place : plan.places) {
    if (place.form != model::WeightPlace::Form::packed || place.name.find(name) == std::string::npos)
      continue;
    const auto elements = static_cast<double>(place.layout.n * place.layout.k);
    return static_cast<double>(backend_of(plan.device).weight_bytes(place.layout)) / elements;
  }
  return static_cast<double>(size_of(plan.dtype));
}

LoadOptions with_strategy(const LoadOptions& load, const Strategy& strategy) {
  LoadOptions options = load;
  options.parallel.communicator = "local";
  options.parallel.strategy = {.tp_size = strategy.tp_size,
                               .dp_size = strategy.dp_size,
                               .ep_size = strategy.ep_size,
                               .moe_tp_size = strategy.moe_tp_size,
                               .moe_dp_size = strategy.moe_dp_size};
  return options;
}

// What is lower is better.
double score(const RankedStrategy& ranked, Objective objective) {
  switch (objective) {
    case Objective::throughput:
      return -ranked.predicted->output_rate;
    case Objective::ttft:
      return ranked.predicted->first_token_median;
    case Objective::itl:
      return ranked.predicted->between_median;
    case Objective::memory:
      return static_cast<double>(ranked.process_bytes);
  }
  return 0;
}

bool meets(const parallel::Prediction& predicted, const ServiceLevel& level) {
  return (level.first_token <= 0 || predicted.first_token_median <= level.first_token) &&
         (level.between <= 0 || predicted.between_median <= level.between);
}

// What the ranks of one process, or rank 0 with a device of its own, take.
void plan_rank_memory(const AdviceRequest& request, const LoadOptions& load, const ParallelPlan& parallel,
                      RankedStrategy& ranked) {
  const model::WeightFormats formats = choose_formats(request.config, load);
  const DType kv_dtype = choose_kv_dtype(request.config, formats.dtype, load);
  std::vector<int> here(request.machine.shares_cores() ? parallel.ranks.size() : 1);
  std::iota(here.begin(), here.end(), 0);
  const MemoryPlan memory =
      plan_memory(request.config, formats, load, parallel, here, request.machine.memory);
  ranked.kv_tokens = memory.kv_tokens;
  ranked.process_bytes = memory.weights + memory.kv_cache + memory.activations;
  const int64_t blocks = memory.kv_tokens / block_tokens(load);
  for (const RankPart& part : parallel.ranks) {
    ranked.weight_bytes = std::max(ranked.weight_bytes, weight_bytes(request.config, formats, part));
    const int64_t bytes =
        blocks * model::KvCache::block_bytes(request.config, part.extent.kv_heads, kv_dtype, formats.device);
    ranked.kv_cache_bytes = std::max(ranked.kv_cache_bytes, static_cast<uint64_t>(bytes));
  }
}

// A strategy with what does not depend on the workload.
struct Candidate {
  RankedStrategy ranked;
  std::optional<parallel::ExpertPlacement> placement;  // absent: it cannot serve
  int64_t running_requests = 0;                        // of each group, at most
};

// Throws Error when it cannot serve.
Candidate plan_candidate(const AdviceRequest& request, const Strategy& strategy) {
  Candidate candidate;
  candidate.ranked.strategy = strategy;
  const LoadOptions load = with_strategy(request.load, strategy);
  const model::StepLimits limits = choose_limits(request.config, load, strategy.dp_size);
  const std::vector<int> one_host(static_cast<size_t>(strategy.world()), 0);
  const ParallelPlan plan = plan_parallel(request.config, load.parallel, limits, one_host);
  plan_rank_memory(request, load, plan, candidate.ranked);
  candidate.placement = plan.placement;
  candidate.running_requests = limits.max_segments;
  return candidate;
}

parallel::CostModel cost_of(const AdviceRequest& request, const Candidate& candidate) {
  const model::WeightFormats formats = choose_formats(request.config, request.load);
  const DType kv_dtype = choose_kv_dtype(request.config, formats.dtype, request.load);
  return {request.machine, model_shape(request.config, formats, kv_dtype), candidate.ranked.strategy,
          *candidate.placement};
}

// Throws Error when it cannot serve the workload.
RankedStrategy predict_candidate(const AdviceRequest& request, const Candidate& candidate) {
  RankedStrategy ranked = candidate.ranked;
  const parallel::CostModel cost = cost_of(request, candidate);
  ranked.predicted = parallel::predict(cost, request.workload,
                                       {.prompt_tokens_per_step = request.load.chunked_prefill_size,
                                        .running_requests = candidate.running_requests,
                                        .kv_tokens = ranked.kv_tokens});
  ranked.meets_service_level = meets(*ranked.predicted, request.service_level);
  return ranked;
}

std::vector<Candidate> plan_all(const AdviceRequest& request) {
  std::vector<Candidate> all;
  for (const Strategy& strategy :
       parallel::all_strategies(request.ranks, model::sharded_sizes(request.config))) {
    try {
      all.push_back(plan_candidate(request, strategy));
    } catch (const Error& error) {
      all.emplace_back().ranked = {.strategy = strategy, .refused = error.what()};
    }
  }
  if (all.empty())
    throw_error("--ranks {}: no strategy of so many ranks works for this model", request.ranks);
  return all;
}

std::vector<RankedStrategy> rank_all(const AdviceRequest& request, const std::vector<Candidate>& candidates) {
  std::vector<RankedStrategy> all;
  for (const Candidate& candidate : candidates) {
    all.push_back(candidate.ranked);
    if (!candidate.placement) continue;
    try {
      all.back() = predict_candidate(request, candidate);
    } catch (const Error& error) {
      all.back().refused = error.what();
    }
  }
  // Of equals, the first that all_strategies() lists.
  std::stable_sort(all.begin(), all.end(), [&](const RankedStrategy& a, const RankedStrategy& b) {
    if (a.predicted.has_value() != b.predicted.has_value()) return a.predicted.has_value();
    if (!a.predicted) return false;
    if (a.meets_service_level != b.meets_service_level) return a.meets_service_level;
    return score(a, request.objective) < score(b, request.objective);
  });
  return all;
}

// The part of a step in which `first` saves most against `other`, in seconds of the whole run.
std::pair<parallel::CostPart, double> largest_saving(const parallel::StepCost& first,
                                                     const parallel::StepCost& other) {
  std::pair<parallel::CostPart, double> saving{parallel::CostPart::products, 0};
  for (size_t part = 0; part < parallel::kNumCostParts; ++part) {
    const double seconds = other.seconds[part] - first.seconds[part];
    if (seconds > saving.second) saving = {static_cast<parallel::CostPart>(part), seconds};
  }
  return saving;
}

std::string reason_of(const std::vector<RankedStrategy>& ranked, const AdviceRequest& request) {
  const RankedStrategy& first = ranked.front();
  if (!first.predicted) return fmt::format("no strategy can serve: {}", first.refused);
  std::string text = fmt::format("{} is first by {}", to_string(first.strategy), name_of(request.objective));
  if (!first.meets_service_level) text += ", though no strategy meets --slo";
  if (ranked.size() < 2 || !ranked[1].predicted) return text + "; no other can serve";
  const RankedStrategy& second = ranked[1];
  if (first.meets_service_level != second.meets_service_level) return text + "; it alone meets --slo";
  if (request.objective == Objective::memory)
    return text + fmt::format("; the next, {}, takes {} bytes more", to_string(second.strategy),
                              second.process_bytes - first.process_bytes);
  const auto [part, seconds] = largest_saving(first.predicted->parts, second.predicted->parts);
  text +=
      fmt::format("; the next, {}, takes {:.1f}% longer for the whole workload", to_string(second.strategy),
                  100 * (second.predicted->seconds / first.predicted->seconds - 1));
  if (seconds > 0) text += fmt::format(", most of it for {} ({:.3g} s)", parallel::name_of(part), seconds);
  return text;
}

// Other workloads, objectives and machines that are near.
std::vector<std::pair<std::string, AdviceRequest>> changes_of(const AdviceRequest& request) {
  std::vector<std::pair<std::string, AdviceRequest>> changes;
  const auto add = [&](std::string text, const auto& change) {
    changes.emplace_back(std::move(text), request);
    change(changes.back().second);
  };
  add("with a quarter of the requests",
      [](AdviceRequest& r) { r.workload.requests = std::max<int64_t>(r.workload.requests / 4, 1); });
  add("with one request at a time", [](AdviceRequest& r) { r.workload.requests = 1; });
  add("with 4 times as many requests", [](AdviceRequest& r) { r.workload.requests *= 4; });
  add("with prompts of 4 times the length", [](AdviceRequest& r) { r.workload.prompt_tokens *= 4; });
  add("with 4 times as many new tokens", [](AdviceRequest& r) { r.workload.new_tokens *= 4; });
  add("if collectives took half of the time", [](AdviceRequest& r) {
    for (auto* costs : {&r.machine.within, &r.machine.across})
      for (parallel::CollectiveCost& cost : *costs) {
        for (auto& point : cost.latency.points) point.second /= 2;
        for (auto& point : cost.bytes_per_second.points) point.second *= 2;
      }
  });
  for (const Objective objective :
       {Objective::throughput, Objective::ttft, Objective::itl, Objective::memory})
    if (objective != request.objective)
      add(fmt::format("by {}", name_of(objective)), [&](AdviceRequest& r) { r.objective = objective; });
  return changes;
}

// "2s", "50ms": seconds.
double parse_seconds(std::string_view text, std::string_view whole) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  if (error != std::errc() || !(value > 0) || value > 1e6 || (unit != "s" && unit != "ms"))
    throw_error("--slo: expected times as in ttft=2s,itl=50ms, found \"{}\"", whole);
  return unit == "ms" ? value / 1e3 : value;
}

}  // namespace

parallel::ModelShape model_shape(const io::ModelConfig& config, const model::WeightFormats& formats,
                                 DType kv_dtype) {
  const parallel::ShardedSizes sizes = model::sharded_sizes(config);
  // One layer tells what an element takes.
  io::ModelConfig one_layer = config;
  one_layer.num_hidden_layers = 1;
  one_layer.mlp_only_layers.clear();
  one_layer.decoder_sparse_step = 1;
  const model::WeightPlan plan = model::plan_weights(one_layer, formats, model::whole_model(one_layer));
  const KvLayout cache = model::KvCache::layout(config, config.num_key_value_heads, kv_dtype);
  const Backend& backend = backend_of(formats.device);
  const auto elements =
      static_cast<double>(backend.kv_block_tokens * 2 * config.num_key_value_heads * config.head_dim);
  parallel::ModelShape shape;
  for (int64_t l = 0; l < config.num_hidden_layers; ++l)
    ++(config.is_sparse_layer(l) ? shape.sparse_layers : shape.dense_layers);
  shape.hidden = config.hidden_size;
  shape.query_heads = config.num_attention_heads;
  shape.kv_heads = config.num_key_value_heads;
  shape.head_dim = config.head_dim;
  shape.intermediate = shape.dense_layers > 0 ? config.intermediate_size : 0;
  shape.expert_intermediate = sizes.expert_intermediate;
  shape.experts = shape.sparse_layers > 0 ? config.num_experts : 0;
  shape.experts_per_token = shape.sparse_layers > 0 ? config.num_experts_per_tok : 0;
  shape.vocab = config.vocab_size;
  shape.max_tp_size = config.max_tp_size;
  shape.linear_bytes = bytes_of_element(plan, ".o_proj.");
  shape.head_bytes = bytes_of_element(plan, "lm_head");
  shape.activation_bytes = static_cast<double>(size_of(formats.dtype));
  shape.kv_bytes = static_cast<double>(backend.kv_block_bytes(cache)) / elements;
  return shape;
}

std::string_view name_of(Objective objective) {
  return kObjectives[static_cast<size_t>(objective)];
}

Objective parse_objective(std::string_view text, std::string_view flag) {
  for (size_t i = 0; i < std::size(kObjectives); ++i)
    if (text == kObjectives[i]) return static_cast<Objective>(i);
  throw_error("{}: expected throughput, ttft, itl or memory, found \"{}\"", flag, text);
}

ServiceLevel parse_service_level(std::string_view text) {
  ServiceLevel level;
  for (size_t from = 0; from <= text.size();) {
    const size_t comma = std::min(text.find(',', from), text.size());
    const std::string_view item = text.substr(from, comma - from);
    from = comma + 1;
    const size_t equals = item.find('=');
    const std::string_view name = item.substr(0, equals);
    double* field = name == "ttft" ? &level.first_token : name == "itl" ? &level.between : nullptr;
    if (field == nullptr || equals == std::string_view::npos || *field > 0)
      throw_error("--slo: expected times as in ttft=2s,itl=50ms, found \"{}\"", text);
    *field = parse_seconds(item.substr(equals + 1), text);
  }
  return level;
}

Advice advise(const AdviceRequest& request) {
  Advice advice;
  const std::vector<Candidate> candidates = plan_all(request);
  advice.ranked = rank_all(request, candidates);
  advice.reason = reason_of(advice.ranked, request);
  if (!advice.ranked.front().predicted) return advice;
  for (const auto& [text, changed] : changes_of(request)) {
    const std::vector<RankedStrategy> ranked = rank_all(changed, candidates);
    if (ranked.front().predicted && !(ranked.front().strategy == advice.ranked.front().strategy))
      advice.alternatives.push_back({text, ranked.front().strategy});
  }
  return advice;
}

RankedStrategy predict_strategy(const AdviceRequest& request, const Strategy& strategy) {
  return predict_candidate(request, plan_candidate(request, strategy));
}

StrategyModel model_strategy(const AdviceRequest& request, const Strategy& strategy) {
  const Candidate candidate = plan_candidate(request, strategy);
  return {.cost = cost_of(request, candidate),
          .prompt_tokens_per_step = request.load.chunked_prefill_size,
          .running_requests = candidate.running_requests,
          .kv_tokens = candidate.ranked.kv_tokens};
}

}  // namespace chorale::engine
