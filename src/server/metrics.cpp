#include "server/metrics.h"

#include <string>
#include <utility>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace chorale::server {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

Buckets first_token_buckets() {
  return {.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 60, 120};
}
Buckets next_token_buckets() {
  return {.001, .002, .005, .01, .02, .03, .05, .075, .1, .2, .5, 1, 2, 5};
}
Buckets end_buckets() {
  return {.05, .1, .2, .5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600};
}

// Collects one snapshot of the engine's numbers as metric families.
class Snapshot {
 public:
  explicit Snapshot(std::string model_name) : model_name_(std::move(model_name)) {}

  void gauge(const char* name, const char* help, int64_t value) {
    prometheus::ClientMetric& metric = add(name, help, prometheus::MetricType::Gauge);
    metric.gauge.value = static_cast<double>(value);
  }
  void counter(const char* name, const char* help, uint64_t value) {
    prometheus::ClientMetric& metric = add(name, help, prometheus::MetricType::Counter);
    metric.counter.value = static_cast<double>(value);
  }
  void by_layer(const char* name, const char* help, std::span<const LayerBalance> layers,
                double LayerBalance::*value) {
    families_.push_back({name, help, prometheus::MetricType::Gauge, {}});
    for (size_t l = 0; l < layers.size(); ++l) {
      prometheus::ClientMetric metric = labelled();
      metric.label.push_back({"layer", std::to_string(l)});
      metric.gauge.value = layers[l].*value;
      families_.back().metric.push_back(std::move(metric));
    }
  }
  std::vector<prometheus::MetricFamily> take() { return std::move(families_); }

 private:
  prometheus::ClientMetric labelled() const {
    prometheus::ClientMetric metric;
    metric.label.push_back({"model_name", model_name_});
    return metric;
  }
  prometheus::ClientMetric& add(const char* name, const char* help, prometheus::MetricType type) {
    families_.push_back({name, help, type, {labelled()}});
    return families_.back().metric.back();
  }

  std::string model_name_;
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace

struct Metrics::Impl {
  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(
        {{"model_name", model_name}}, buckets);
  }

  explicit Impl(const std::string& name)
      : model_name(name),
        first_token(histogram("chorale_time_to_first_token_seconds",
                              "From the arrival of a request to its first token.", first_token_buckets())),
        next_token(histogram("chorale_inter_token_latency_seconds", "Between two tokens of one request.",
                             next_token_buckets())),
        end(histogram("chorale_e2e_request_latency_seconds", "From the arrival of a request to its end.",
                      end_buckets())),
        finished(prometheus::BuildCounter()
                     .Name("chorale_request_finished_total")
                     .Help("Requests that ended, by reason.")
                     .Labels({{"model_name", model_name}})
                     .Register(registry)) {
    for (const char* reason : {"stop", "length", "abort", "error"}) finished.Add({{"reason", reason}});
  }

  std::string model_name;
  prometheus::Registry registry;
  prometheus::Histogram& first_token;
  prometheus::Histogram& next_token;
  prometheus::Histogram& end;
  prometheus::Family<prometheus::Counter>& finished;
};

Metrics::Metrics(const std::string& model_name) : impl_(std::make_unique<Impl>(model_name)) {}
Metrics::~Metrics() = default;

void Metrics::observe_first_token(double seconds) {
  impl_->first_token.Observe(seconds);
}
void Metrics::observe_next_token(double seconds) {
  impl_->next_token.Observe(seconds);
}
void Metrics::observe_end(double seconds) {
  impl_->end.Observe(seconds);
}
void Metrics::count_finished(const char* reason) {
  impl_->finished.Add({{"reason", reason}}).Increment();
}

std::string Metrics::serialize(const engine::EngineStats& stats,
                               std::span<const LayerBalance> balance) const {
  Snapshot out(impl_->model_name);
  out.gauge("chorale_num_requests_running", "Requests that are being computed.", stats.running);
  out.gauge("chorale_num_requests_waiting", "Requests that wait for their turn.", stats.waiting);
  out.gauge("chorale_kv_cache_tokens_total", "Tokens that the KV cache holds at most.",
            stats.kv_tokens_total);
  out.gauge("chorale_kv_cache_tokens_used", "Tokens of the KV cache held by running requests.",
            stats.kv_tokens_used);
  out.gauge("chorale_kv_cache_tokens_cached", "Tokens held by the prefix cache alone.",
            stats.kv_tokens_cached);
  out.counter("chorale_prompt_tokens_total", "Prompt tokens computed or found in the prefix cache.",
              stats.prompt_tokens);
  out.counter("chorale_cached_prompt_tokens_total", "Prompt tokens found in the prefix cache.",
              stats.cached_tokens);
  out.counter("chorale_generation_tokens_total", "Generated tokens.", stats.generated_tokens);
  out.counter("chorale_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
              stats.prefix_queries);
  out.counter("chorale_prefix_cache_hits_total", "Prompt tokens that the prefix cache had.",
              stats.cached_tokens);
  out.counter("chorale_num_preemptions_total", "Requests put back to free KV cache.", stats.preemptions);
  out.counter("chorale_engine_steps_total", "Forward passes.", stats.steps);

  if (!balance.empty()) {
    out.by_layer("chorale_expert_load_max_over_mean",
                 "Tokens of the busiest expert over those of the mean one.", balance, &LayerBalance::experts);
    out.by_layer("chorale_expert_rank_load_max_over_mean",
                 "Expert work of the busiest expert-parallel rank over that of the mean one.", balance,
                 &LayerBalance::ranks);
  }

  std::vector<prometheus::MetricFamily> families = out.take();
  for (prometheus::MetricFamily& family : impl_->registry.Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace chorale::server
