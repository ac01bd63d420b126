#include "tools/compare/compare.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "engine/strategy_advice.h"
#include "model/kv_cache.h"

namespace chorale::tools {
namespace {

using Clock = std::chrono::steady_clock;

// Room for the whole workload at once, where there is memory for that.
engine::LoadOptions load_options(const CompareOptions& options, const parallel::Strategy& strategy,
                                 const Workload& workload) {
  engine::LoadOptions load = options.load;
  load.parallel.communicator = "local";
  load.parallel.strategy = {.tp_size = strategy.tp_size,
                            .dp_size = strategy.dp_size,
                            .ep_size = strategy.ep_size,
                            .moe_tp_size = strategy.moe_tp_size,
                            .moe_dp_size = strategy.moe_dp_size};
  // A failure is asked for once, for all strategies; those without that rank have none.
  if (load.parallel.fault && load.parallel.fault->rank >= strategy.world()) load.parallel.fault.reset();
  load.context_length = workload.longest();
  load.max_running_requests =
      std::min(load.max_running_requests, static_cast<int64_t>(workload.requests.size()));
  load.show_progress = false;
  return load;
}

engine::EngineOptions engine_options(const engine::LoadOptions& load, const engine::ModelInfo& model,
                                     const Workload& workload) {
  engine::EngineOptions options;
  options.max_total_tokens = model.max_total_tokens;
  options.chunked_prefill_size = load.chunked_prefill_size;
  options.max_running_requests = load.max_running_requests;
  options.max_queued_requests = static_cast<int64_t>(workload.requests.size());
  options.max_context_len = model.max_context_len;
  // What the warm-up has computed must not be found again.
  options.enable_prefix_cache = false;
  options.eos_token_ids = model.eos_token_ids;
  return options;
}

// As many requests as fill a step of every group, for two tokens: the memory of a step has been touched then.
std::vector<engine::GenerationRequest> warm_up_requests(const Workload& workload, int64_t chunk_size,
                                                        int64_t num_groups) {
  std::vector<engine::GenerationRequest> chosen;
  int64_t tokens = 0;
  for (const engine::GenerationRequest& request : workload.requests) {
    if (tokens >= chunk_size * num_groups && std::ssize(chosen) >= num_groups) break;
    tokens += static_cast<int64_t>(request.prompt_ids.size());
    chosen.push_back(request);
    chosen.back().sampling.max_new_tokens = std::min<int64_t>(2, request.sampling.max_new_tokens);
  }
  return chosen;
}

// Counters of a model that grow with every step.
struct Counters {
  std::vector<comm::Traffic> traffic;
  std::vector<std::vector<int64_t>> expert_load;  // [world][layers * E]
  uint64_t steps = 0;
  uint64_t preemptions = 0;
};

Counters read_counters(const engine::LoadedModel& model, const engine::Engine& engine) {
  const engine::EngineStats stats = engine.stats();
  return {model.runner().traffic(), model.runner().expert_load_by_rank(), stats.steps, stats.preemptions};
}

void measure_counters(const engine::ModelInfo& model, const Counters& before, Counters after,
                      Measurement& measured) {
  measured.steps = after.steps - before.steps;
  measured.preemptions = after.preemptions - before.preemptions;
  measured.sent_bytes.resize(after.traffic.size());
  for (size_t rank = 0; rank < after.traffic.size(); ++rank) {
    for (size_t p = 0; p < comm::kNumPurposes; ++p) {
      measured.sent_bytes[rank][p] = after.traffic[rank].bytes[p] - before.traffic[rank].bytes[p];
      measured.operations[p] += after.traffic[rank].operations[p] - before.traffic[rank].operations[p];
    }
    for (size_t i = 0; i < after.expert_load[rank].size(); ++i)
      after.expert_load[rank][i] -= before.expert_load[rank][i];
  }
  measured.balance = expert_balance(expert_rows(model.parallel, after.expert_load, model.config.num_experts));
}

void measure_memory(const engine::ModelInfo& model, Measurement& measured) {
  const int64_t blocks = model.max_total_tokens / model.block_tokens();
  measured.stored_weights = model.weight_bytes;
  for (const engine::RankPart& part : model.parallel.ranks) {
    const int64_t block_bytes =
        model::KvCache::block_bytes(model.config, part.extent.kv_heads, model.kv_dtype, model.formats.device);
    measured.ranks.push_back({engine::weight_bytes(model.config, model.formats, part),
                              static_cast<uint64_t>(blocks * block_bytes)});
  }
}

// Requests of a file count as their mean.
parallel::Prediction predict(const parallel::MachineProfile& machine, const engine::LoadOptions& load,
                             const engine::ModelInfo& info, const Workload& workload) {
  const auto requests = static_cast<int64_t>(workload.requests.size());
  const parallel::CostModel cost(machine, engine::model_shape(info.config, info.formats, info.kv_dtype),
                                 info.parallel.strategy, info.parallel.placement);
  return parallel::predict(
      cost,
      {.requests = requests,
       .prompt_tokens = std::max<int64_t>(workload.prompt_tokens() / requests, 1),
       .new_tokens = std::max<int64_t>(workload.max_new_tokens() / requests, 1)},
      {.prompt_tokens_per_step = load.chunked_prefill_size,
       .running_requests = ceil_div<int64_t>(load.max_running_requests, info.parallel.strategy.dp_size),
       .kv_tokens = info.max_total_tokens});
}

// One strategy from loading to unloading.
Measurement measure(const CompareOptions& options, const parallel::Strategy& strategy,
                    const Workload& workload, std::vector<Answer>& answers) {
  const engine::LoadOptions load = load_options(options, strategy, workload);
  const Clock::time_point start = Clock::now();
  engine::LoadedModel model = engine::LoadedModel::load(load);
  const engine::ModelInfo& info = model.info();
  Measurement measured;
  measured.load_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  measured.dtype = info.dtype_name();
  measured.instruction_set = info.instruction_set_name();
  measured.device = info.device;
  measured.device_description = info.device_description;
  measured.threads_per_rank = info.num_threads;
  measure_memory(info, measured);
  if (options.machine) measured.predicted = predict(*options.machine, load, info, workload);

  engine::Engine engine(model.runner(), engine_options(load, info, workload));
  run_requests(engine, warm_up_requests(workload, load.chunked_prefill_size, strategy.dp_size));
  const Counters before = read_counters(model, engine);
  std::vector<ServedRequest> served = run_requests(engine, workload.requests);
  measure_counters(info, before, read_counters(model, engine), measured);
  measured.prompt_tokens = workload.prompt_tokens();
  measure_times(served, measured);
  for (ServedRequest& request : served) answers.push_back(std::move(request.answer));
  return measured;
}

uint64_t sum_over_ranks(const Measurement& measured, size_t purpose) {
  uint64_t sum = 0;
  for (const auto& rank : measured.sent_bytes) sum += rank[purpose];
  return sum;
}

}  // namespace

RankMemory Measurement::largest_rank() const {
  RankMemory largest;
  for (const RankMemory& rank : ranks) {
    largest.weights = std::max(largest.weights, rank.weights);
    largest.kv_cache = std::max(largest.kv_cache, rank.kv_cache);
  }
  return largest;
}

uint64_t Measurement::bytes_for(comm::Purpose purpose) const {
  return sum_over_ranks(*this, static_cast<size_t>(purpose));
}

double Measurement::bytes_per_token(comm::Purpose purpose) const {
  return static_cast<double>(bytes_for(purpose)) / static_cast<double>(std::max<int64_t>(computed_tokens, 1));
}

std::vector<Outcome> compare(const CompareOptions& options, std::span<const NamedStrategy> strategies,
                             const Workload& workload) {
  std::vector<Outcome> outcomes;
  std::optional<std::vector<Answer>> reference;
  for (const NamedStrategy& strategy : strategies) {
    Outcome& outcome = outcomes.emplace_back(Outcome{strategy, strategy.error, {}, false, {}});
    if (!strategy.strategy) continue;
    if (options.on_start) options.on_start(outcomes.size() - 1, strategy);
    std::vector<Answer> answers;
    try {
      outcome.measured = measure(options, *strategy.strategy, workload, answers);
    } catch (const std::exception& error) {
      outcome.error = error.what();
      continue;
    }
    outcome.is_reference = !reference;
    if (!reference) reference = std::move(answers);
    if (!outcome.is_reference) outcome.difference = find_difference(*reference, answers);
  }
  return outcomes;
}

void measure_times(std::span<const ServedRequest> served, Measurement& measured) {
  std::vector<double> first;
  std::vector<double> between;
  double last_first = 0;
  double last = 0;
  for (const ServedRequest& request : served) {
    const std::vector<double>& times = request.token_times;
    CHORALE_CHECK(!times.empty());
    first.push_back(times.front() - request.submitted);
    for (size_t t = 1; t < times.size(); ++t) between.push_back(times[t] - times[t - 1]);
    last_first = std::max(last_first, times.front());
    last = std::max(last, times.back());
    measured.output_tokens += std::ssize(times);
  }
  const double start = served.front().submitted;
  measured.seconds = last - start;
  measured.first_token = summarize(std::move(first));
  measured.between = summarize(std::move(between));
  measured.prompt_rate = static_cast<double>(measured.prompt_tokens) / (last_first - start);
  measured.output_rate = static_cast<double>(measured.output_tokens) / measured.seconds;
  measured.computed_tokens = measured.prompt_tokens + measured.output_tokens - std::ssize(served);
}

bool any_ran(std::span<const Outcome> outcomes) {
  return std::any_of(outcomes.begin(), outcomes.end(),
                     [](const Outcome& o) { return o.measured.has_value(); });
}

bool all_identical(std::span<const Outcome> outcomes) {
  return std::none_of(outcomes.begin(), outcomes.end(),
                      [](const Outcome& o) { return o.difference.has_value(); });
}

}  // namespace chorale::tools
