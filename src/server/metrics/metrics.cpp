#include "server/metrics/metrics.h"

#include <ctime>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "base/error.h"
#include "server/metrics/foreign_names.h"

namespace chorale::server {
namespace {

using prometheus::MetricType;
using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kFirstToken = {.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 60, 120};
const Buckets kNextToken = {.001, .002, .005, .01, .02, .03, .05, .075, .1, .2, .5, 1, 2, 5};
const Buckets kWhole = {.05, .1, .2, .5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600};
const Buckets kTokens = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                         1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

// Collects one snapshot of the engine's numbers as metric families.
class Snapshot {
 public:
  explicit Snapshot(std::string model_name) : model_name_(std::move(model_name)) {}

  void gauge(const char* name, const char* help, double value) {
    add(name, help, MetricType::Gauge).gauge.value = value;
  }
  void gauge(const char* name, const char* help, int64_t value) {
    gauge(name, help, static_cast<double>(value));
  }
  void counter(const char* name, const char* help, double value) {
    add(name, help, MetricType::Counter).counter.value = value;
  }
  void counter(const char* name, const char* help, uint64_t value) {
    counter(name, help, static_cast<double>(value));
  }
  void info(const char* name, const char* help, const std::map<std::string, std::string>& labels) {
    prometheus::ClientMetric& metric = add(name, help, MetricType::Gauge);
    for (const auto& [label, value] : labels) metric.label.push_back({label, value});
    metric.gauge.value = 1;
  }
  void histogram(const char* name, const char* help, const engine::TimeHistogram& times) {
    fill(add(name, help, MetricType::Histogram), times);
  }
  void histograms(const char* name, const char* help, const char* label,
                  std::initializer_list<std::pair<const char*, const engine::TimeHistogram*>> by_label) {
    families_.push_back({name, help, MetricType::Histogram, {}});
    for (const auto& [value, times] : by_label) {
      prometheus::ClientMetric metric = labelled();
      metric.label.push_back({label, value});
      fill(metric, *times);
      families_.back().metric.push_back(std::move(metric));
    }
  }
  void by_layer(const char* name, const char* help, std::span<const double> layers) {
    families_.push_back({name, help, MetricType::Gauge, {}});
    for (size_t l = 0; l < layers.size(); ++l) {
      prometheus::ClientMetric metric = labelled();
      metric.label.push_back({"layer", std::to_string(l)});
      metric.gauge.value = layers[l];
      families_.back().metric.push_back(std::move(metric));
    }
  }
  void by_layer(const char* name, const char* help, std::span<const LayerBalance> layers,
                double LayerBalance::*value) {
    std::vector<double> values;
    for (const LayerBalance& layer : layers) values.push_back(layer.*value);
    by_layer(name, help, values);
  }
  std::vector<prometheus::MetricFamily> take() { return std::move(families_); }

 private:
  static void fill(prometheus::ClientMetric& metric, const engine::TimeHistogram& times) {
    uint64_t cumulative = 0;
    for (size_t i = 0; i < times.counts.size(); ++i) {
      cumulative += times.counts[i];
      const double bound = i < engine::TimeHistogram::kBounds.size()
                               ? engine::TimeHistogram::kBounds[i]
                               : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, bound});
    }
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum = times.sum;
  }
  prometheus::ClientMetric labelled() const {
    prometheus::ClientMetric metric;
    metric.label.push_back({"model_name", model_name_});
    return metric;
  }
  prometheus::ClientMetric& add(const char* name, const char* help, MetricType type) {
    families_.push_back({name, help, type, {labelled()}});
    return families_.back().metric.back();
  }

  std::string model_name_;
  std::vector<prometheus::MetricFamily> families_;
};

void add_state(Snapshot& out, const engine::EngineStats& stats) {
  out.gauge("chorale_num_requests_running", "Requests that are being computed.", stats.running);
  out.gauge("chorale_num_requests_waiting", "Requests that wait for their turn.", stats.waiting);
  out.gauge("chorale_kv_cache_capacity_tokens", "Tokens that the KV cache holds at most.",
            stats.kv_tokens_total);
  out.gauge("chorale_kv_cache_tokens_used", "Tokens of the KV cache held by running requests.",
            stats.kv_tokens_used);
  out.gauge("chorale_kv_cache_tokens_cached", "Tokens held by the prefix cache alone.",
            stats.kv_tokens_cached);
  out.gauge("chorale_kv_cache_usage_ratio", "Share of the KV cache held by running requests, 0 to 1.",
            ratio(static_cast<double>(stats.kv_tokens_used), static_cast<double>(stats.kv_tokens_total)));
  out.gauge("chorale_engine_failed", "1 once the model has failed and nothing runs any more.",
            int64_t{stats.failed});
}

void add_device(Snapshot& out, const std::function<uint64_t()>& free_memory) {
  if (!free_memory) return;
  try {
    out.gauge("chorale_device_memory_free_bytes", "Memory of the device that nobody has taken.",
              static_cast<int64_t>(free_memory()));
  } catch (const Error&) {
    // A lost device tells nothing; chorale_engine_failed says that it is lost.
  }
}

void add_work(Snapshot& out, const engine::EngineStats& stats) {
  out.counter("chorale_prompt_tokens_total", "Prompt tokens computed or found in the prefix cache.",
              stats.prompt_tokens);
  out.counter("chorale_cached_prompt_tokens_total", "Prompt tokens found in the prefix cache.",
              stats.cached_tokens);
  out.counter("chorale_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
              stats.prefix_queries);
  out.counter("chorale_prefix_cache_hits_total", "Prompt tokens that the prefix cache had.",
              stats.cached_tokens);
  out.counter("chorale_sampled_tokens_total",
              "Tokens that the engine made, also those after a stop string or for a client that left.",
              stats.generated_tokens);
  out.counter("chorale_num_preemptions_total", "Requests put back to free KV cache.", stats.preemptions);
  out.counter("chorale_engine_steps_total", "Forward passes.", stats.steps);
  out.counter("chorale_strategy_switches_total", "Changes of the strategy while requests ran.",
              stats.switches);
  out.counter("chorale_strategy_switch_pause_seconds_total", "Seconds in which no step ran because of that.",
              stats.switch_pause_seconds);
  out.histogram("chorale_request_queue_time_seconds",
                "From a request's arrival at the engine to the first step that computes it.",
                stats.queue_seconds);
  const auto& steps = stats.step_seconds;
  out.histograms("chorale_step_time_seconds",
                 "One step of the engine, sampling included, by what its requests did.", "phase",
                 {{"prefill", &steps[static_cast<size_t>(engine::StepPhase::prefill)]},
                  {"decode", &steps[static_cast<size_t>(engine::StepPhase::decode)]},
                  {"mixed", &steps[static_cast<size_t>(engine::StepPhase::mixed)]}});
}

// Where experts can move while requests run.
void add_moves(Snapshot& out, const engine::ExpertReport& experts) {
  const engine::ExpertMoves& moves = experts.moves;
  out.counter("chorale_expert_rebalances_total", "Placements of experts that were put in force.",
              moves.rebalances);
  out.counter("chorale_expert_layers_moved_total", "Layers whose experts were placed anew.", moves.layers);
  out.counter("chorale_expert_slots_moved_total", "Slots that became copies of another expert.", moves.slots);
  out.counter("chorale_expert_moved_bytes_total", "Bytes of weights that were moved for that.", moves.bytes);
  out.counter("chorale_expert_move_seconds_total", "Seconds that steps waited for that.", moves.seconds);
  if (experts.last.after.empty()) return;
  out.by_layer("chorale_expert_rebalance_max_over_mean_before",
               "Work of the busiest rank over that of the mean one, before experts moved last.",
               experts.last.before);
  out.by_layer("chorale_expert_rebalance_max_over_mean_after", "The same load, with experts as they lie now.",
               experts.last.after);
}

}  // namespace

struct Metrics::Impl {
  explicit Impl(MetricsOptions o) : options(std::move(o)) {
    for (const char* reason : {"stop", "length", "tool_calls", "abort", "error"})
      finished.Add({{"reason", reason}});
    responses.Add({{"code", "200"}});
  }

  std::map<std::string, std::string> labels() const { return {{"model_name", options.model_name}}; }
  prometheus::Family<prometheus::Counter>& family(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(labels()).Register(registry);
  }
  prometheus::Counter& counter(const char* name, const char* help) { return family(name, help).Add({}); }
  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels(), buckets);
  }

  MetricsOptions options;
  std::time_t started = std::time(nullptr);
  prometheus::Registry registry;
  prometheus::Counter& generated =
      counter("chorale_generation_tokens_total", "Generated tokens that clients were told.");
  prometheus::Counter& aborted = counter("chorale_num_aborted_requests_total",
                                         "Requests that ended because their client or the server left.");
  prometheus::Family<prometheus::Counter>& finished =
      family("chorale_request_finished_total", "Requests that ended, by reason.");
  prometheus::Family<prometheus::Counter>& responses =
      family("chorale_http_responses_total", "HTTP answers, by status code.");
  prometheus::Histogram& first_token =
      histogram("chorale_time_to_first_token_seconds", "From the arrival of a request to its first token.",
                kFirstToken);
  prometheus::Histogram& next_token =
      histogram("chorale_inter_token_latency_seconds", "Between two tokens of one request.", kNextToken);
  prometheus::Histogram& end =
      histogram("chorale_e2e_request_latency_seconds", "From the arrival of a request to its end.", kWhole);
  prometheus::Histogram& prefill = histogram("chorale_request_prefill_time_seconds",
                                             "From a request's first step to its first token.", kFirstToken);
  prometheus::Histogram& decode =
      histogram("chorale_request_decode_time_seconds", "From a request's first token to its end.", kWhole);
  prometheus::Histogram& prompt_length =
      histogram("chorale_request_prompt_tokens", "Prompt tokens of a request that finished.", kTokens);
  prometheus::Histogram& generation_length =
      histogram("chorale_request_generation_tokens", "Generated tokens of a request that finished.", kTokens);
};

Metrics::Metrics(MetricsOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Metrics::~Metrics() = default;

void Metrics::observe_first_token(double seconds) {
  impl_->generated.Increment();
  impl_->first_token.Observe(seconds);
}

void Metrics::observe_next_token(double seconds) {
  impl_->generated.Increment();
  impl_->next_token.Observe(seconds);
}

void Metrics::observe_finished(const char* reason, const FinishedRequest& request) {
  impl_->finished.Add({{"reason", reason}}).Increment();
  impl_->end.Observe(request.seconds);
  impl_->prompt_length.Observe(static_cast<double>(request.prompt_tokens));
  impl_->generation_length.Observe(static_cast<double>(request.generated_tokens));
  if (request.generated_tokens == 0) return;
  impl_->prefill.Observe(request.prefill_seconds);
  impl_->decode.Observe(request.decode_seconds);
}

void Metrics::count_unfinished(const char* reason) {
  impl_->finished.Add({{"reason", reason}}).Increment();
  if (std::string_view(reason) == "abort") impl_->aborted.Increment();
}

void Metrics::count_response(int status) {
  impl_->responses.Add({{"code", std::to_string(status)}}).Increment();
}

std::string Metrics::serialize(const engine::EngineStats& stats, std::span<const LayerBalance> balance,
                               double generation_rate) const {
  const MetricsOptions& options = impl_->options;
  Snapshot out(options.model_name);
  out.info("chorale_build_info", "How this program was built, and what it runs on; 1.", options.build_info);
  std::map<std::string, std::string> model_info = options.model_info;
  if (options.strategy) model_info["strategy"] = options.strategy();
  out.info("chorale_model_info", "The model that is served, and how; 1.", model_info);
  out.gauge("chorale_start_time_seconds", "When the server started, in Unix time.",
            static_cast<int64_t>(impl_->started));
  add_state(out, stats);
  add_device(out, options.free_device_memory);
  add_work(out, stats);
  if (!balance.empty()) {
    out.by_layer("chorale_expert_load_max_over_mean",
                 "Tokens of the busiest expert over those of the mean one.", balance, &LayerBalance::experts);
    out.by_layer("chorale_expert_rank_load_max_over_mean",
                 "Expert work of the busiest expert-parallel rank over that of the mean one.", balance,
                 &LayerBalance::ranks);
  }
  if (stats.experts != nullptr) add_moves(out, *stats.experts);
  std::vector<prometheus::MetricFamily> families = out.take();
  for (prometheus::MetricFamily& family : impl_->registry.Collect()) families.push_back(std::move(family));
  const size_t num_own = families.size();
  if (options.sglang_names) {
    const double hits =
        ratio(static_cast<double>(stats.cached_tokens), static_cast<double>(stats.prefix_queries));
    add_sglang_names(families, num_own, {generation_rate, hits});
  }
  if (options.vllm_names) add_vllm_names(families, num_own);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace chorale::server
