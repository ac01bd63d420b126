#include "tools/bench/model_bench.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "base/instruction_set.h"
#include "base/math.h"
#include "base/thread_pool.h"
#include "model/weight_shard.h"
#include "tools/bench/bench_step.h"
#include "tools/bench/ceilings.h"

namespace chorale::bench {
namespace {

constexpr int64_t kStepsBetweenCeilings = 8;

// Runs steps of one model, and measures the machine between them.
class Bench {
 public:
  Bench(engine::LoadedModel& model, const ModelBenchOptions& options, OpProfile* profile)
      : model_(model),
        options_(options),
        profile_(profile),
        isa_(model.info().instruction_set),
        pool_(model.device().is_cpu() ? model.info().num_threads * model.info().parallel.strategy.world()
                                      : 1),
        groups_(model.runner().num_dp_groups()),
        weights_(
            weight_bytes(model.info().config, model::plan_weights(model.info().config, model.info().formats,
                                                                  model::whole_model(model.info().config)))) {
    if (model.device().is_cpu())
      read_bandwidth_.emplace();
    else
      copy_bandwidth_.emplace(model.device());
  }

  StepResult prefill() {
    StepResult result{.phase = "prefill", .sequences = 1, .tokens = options_.prompt_tokens * groups_};
    const BenchStep shape{1, options_.prompt_tokens, 0, blocks_each()};
    time_step(model_.runner(), shape);  // touches every page
    for (int i = 0; i < options_.repeats; ++i) {
      measure_ceilings();
      take(shape, result);
    }
    return finish(shape, std::move(result));
  }

  StepResult decode(int64_t batch) {
    StepResult result{.phase = "decode", .sequences = batch, .tokens = batch * groups_};
    BenchStep shape{batch, 1, options_.prompt_tokens, blocks_each()};
    time_step(model_.runner(), shape);
    for (int64_t i = 0; i < options_.decode_tokens; ++i) {
      if (i % kStepsBetweenCeilings == 0) measure_ceilings();
      shape.first_position = options_.prompt_tokens + i;
      take(shape, result);
    }
    return finish(shape, std::move(result));
  }

 private:
  int64_t blocks_each() const {
    return ceil_div(options_.prompt_tokens + options_.decode_tokens, model_.info().block_tokens());
  }

  // (layer, expert) pairs that got a token since the last call.
  double touched_experts() {
    const std::vector<int64_t> load = model_.runner().expert_load();
    load_.resize(load.size());
    double touched = 0;
    for (size_t i = 0; i < load.size(); ++i) touched += load[i] > load_[i] ? 1 : 0;
    load_ = load;
    return touched;
  }

  void take(const BenchStep& shape, StepResult& result) {
    touched_experts();
    const double seconds = time_step(model_.runner(), shape);
    seconds_.push_back(seconds);
    const OpWork floor = step_floor(model_.info().config, weights_, model_.info().kv_dtype,
                                    {.sequences = shape.sequences * groups_,
                                     .tokens_each = shape.tokens_each,
                                     .first_position = shape.first_position,
                                     .logits_rows = shape.sequences * groups_,
                                     .touched_experts = touched_experts()});
    result.floor.bytes += floor.bytes;
    result.floor.operations += floor.operations;
  }

  void measure_ceilings() {
    if (copy_bandwidth_) {
      bandwidths_.push_back(copy_bandwidth_->measure());
      peaks_.push_back(std::numeric_limits<double>::infinity());  // not measured
      return;
    }
    bandwidths_.push_back(read_bandwidth_->measure(pool_));
    peaks_.push_back(peak_operations(pool_, isa_, model_.info().formats.linear));
  }

  StepResult finish(const BenchStep& shape, StepResult result) {
    const auto steps = static_cast<double>(seconds_.size());
    std::vector<double> rates;
    for (const double s : seconds_) rates.push_back(static_cast<double>(result.tokens) / s);
    result.tokens_per_second = spread_of(std::move(rates));
    result.floor.bytes /= steps;
    result.floor.operations /= steps;
    result.ceilings = {spread_of(bandwidths_).median, spread_of(peaks_).median};
    result.fraction = floor_seconds(result.floor, result.ceilings) / spread_of(seconds_).median;
    result.bound_by_memory = is_bound_by_memory(result.floor, result.ceilings);
    seconds_.clear();
    bandwidths_.clear();
    peaks_.clear();
    if (profile_ != nullptr) {
      profile_->start();
      time_step(model_.runner(), shape);
      profile_->stop();
      result.ops.assign(profile_->records().begin(), profile_->records().end());
    }
    return result;
  }

  engine::LoadedModel& model_;
  const ModelBenchOptions& options_;
  OpProfile* profile_;
  InstructionSet isa_;
  ThreadPool pool_;
  std::optional<ReadBandwidth> read_bandwidth_;  // the CPU's
  std::optional<CopyBandwidth> copy_bandwidth_;  // another device's
  int64_t groups_;
  WeightBytes weights_;
  std::vector<int64_t> load_;
  std::vector<double> seconds_, bandwidths_, peaks_;  // one for each step being taken
};

}  // namespace

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

void make_room(const ModelBenchOptions& options, engine::LoadOptions& load) {
  const int64_t most = *std::max_element(options.batches.begin(), options.batches.end());
  const int64_t groups = load.parallel.strategy.dp_size.value_or(1);
  const int64_t block_tokens = engine::block_tokens(load);
  const int64_t each = ceil_div(options.prompt_tokens + options.decode_tokens, block_tokens);
  load.chunked_prefill_size = options.prompt_tokens;
  load.max_running_requests = most * groups;
  load.max_total_tokens = most * each * block_tokens;
}

std::vector<StepResult> run_model_bench(engine::LoadedModel& model, const ModelBenchOptions& options,
                                        OpProfile* profile) {
  Bench bench(model, options, profile);
  std::vector<StepResult> results;
  const auto tell = [&](const std::string& what) {
    if (options.on_progress) options.on_progress(what);
  };
  tell(fmt::format("prefill of {} tokens", options.prompt_tokens));
  results.push_back(bench.prefill());
  for (const int64_t batch : options.batches) {
    tell(fmt::format("decode, batch {}", batch));
    results.push_back(bench.decode(batch));
  }
  return results;
}

}  // namespace chorale::bench
