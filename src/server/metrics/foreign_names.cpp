#include "server/metrics/foreign_names.h"

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace chorale::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Alias {
  const char* name;
  const char* own;
};

constexpr Alias kSglang[] = {
    {"sglang:num_running_reqs", "chorale_num_requests_running"},
    {"sglang:num_queue_reqs", "chorale_num_requests_waiting"},
    {"sglang:num_used_tokens", "chorale_kv_cache_tokens_used"},
    {"sglang:max_total_num_tokens", "chorale_kv_cache_capacity_tokens"},
    {"sglang:token_usage", "chorale_kv_cache_usage_ratio"},
    {"sglang:prompt_tokens_total", "chorale_prompt_tokens_total"},
    {"sglang:generation_tokens_total", "chorale_generation_tokens_total"},
    {"sglang:cached_tokens_total", "chorale_cached_prompt_tokens_total"},
    {"sglang:num_aborted_requests_total", "chorale_num_aborted_requests_total"},
    {"sglang:num_retracted_requests_total", "chorale_num_preemptions_total"},
    {"sglang:time_to_first_token_seconds", "chorale_time_to_first_token_seconds"},
    {"sglang:inter_token_latency_seconds", "chorale_inter_token_latency_seconds"},
    {"sglang:time_per_output_token_seconds", "chorale_inter_token_latency_seconds"},
    {"sglang:e2e_request_latency_seconds", "chorale_e2e_request_latency_seconds"},
    {"sglang:queue_time_seconds", "chorale_request_queue_time_seconds"},
    {"sglang:prompt_tokens_histogram", "chorale_request_prompt_tokens"},
    {"sglang:generation_tokens_histogram", "chorale_request_generation_tokens"},
};

constexpr Alias kVllm[] = {
    {"vllm:num_requests_running", "chorale_num_requests_running"},
    {"vllm:num_requests_waiting", "chorale_num_requests_waiting"},
    {"vllm:kv_cache_usage_perc", "chorale_kv_cache_usage_ratio"},
    {"vllm:gpu_cache_usage_perc", "chorale_kv_cache_usage_ratio"},
    {"vllm:prefix_cache_queries_total", "chorale_prefix_cache_queries_total"},
    {"vllm:prefix_cache_hits_total", "chorale_prefix_cache_hits_total"},
    {"vllm:gpu_prefix_cache_queries_total", "chorale_prefix_cache_queries_total"},
    {"vllm:gpu_prefix_cache_hits_total", "chorale_prefix_cache_hits_total"},
    {"vllm:num_preemptions_total", "chorale_num_preemptions_total"},
    {"vllm:prompt_tokens_total", "chorale_prompt_tokens_total"},
    {"vllm:generation_tokens_total", "chorale_generation_tokens_total"},
    {"vllm:time_to_first_token_seconds", "chorale_time_to_first_token_seconds"},
    {"vllm:inter_token_latency_seconds", "chorale_inter_token_latency_seconds"},
    {"vllm:time_per_output_token_seconds", "chorale_inter_token_latency_seconds"},
    {"vllm:e2e_request_latency_seconds", "chorale_e2e_request_latency_seconds"},
    {"vllm:request_queue_time_seconds", "chorale_request_queue_time_seconds"},
    {"vllm:request_prefill_time_seconds", "chorale_request_prefill_time_seconds"},
    {"vllm:request_decode_time_seconds", "chorale_request_decode_time_seconds"},
    {"vllm:request_prompt_tokens", "chorale_request_prompt_tokens"},
    {"vllm:request_generation_tokens", "chorale_request_generation_tokens"},
};

const MetricFamily& find(std::span<const MetricFamily> own, std::string_view name) {
  const auto found = std::ranges::find(own, name, &MetricFamily::name);
  CHORALE_CHECK(found != own.end(), "there is no metric {}", name);
  return *found;
}

MetricFamily renamed(MetricFamily family, const char* name) {
  family.help = "As " + family.name + ": " + family.help;
  family.name = name;
  return family;
}

MetricFamily gauge(const char* name, const char* help, const ClientMetric& like, double value) {
  ClientMetric metric;
  metric.label = like.label;
  metric.gauge.value = value;
  return {name, help, MetricType::Gauge, {metric}};
}

std::string label(const ClientMetric& metric, std::string_view name) {
  const auto found = std::ranges::find(metric.label, name, &ClientMetric::Label::name);
  return found != metric.label.end() ? found->value : "";
}

// vLLM's reasons are those of its engine, to which a tool call is a stop like any other.
MetricFamily vllm_request_success(const MetricFamily& finished) {
  MetricFamily out = renamed(finished, "vllm:request_success_total");
  const auto tool_calls = std::ranges::find_if(
      out.metric, [](const ClientMetric& metric) { return label(metric, "reason") == "tool_calls"; });
  if (tool_calls != out.metric.end()) {
    const double count = tool_calls->counter.value;
    out.metric.erase(tool_calls);
    for (ClientMetric& metric : out.metric)
      if (label(metric, "reason") == "stop") metric.counter.value += count;
  }
  for (ClientMetric& metric : out.metric)
    for (ClientMetric::Label& l : metric.label)
      if (l.name == "reason") l.name = "finished_reason";
  return out;
}

// All that ended by themselves.
MetricFamily sglang_num_requests(const MetricFamily& e2e) {
  ClientMetric metric;
  metric.label = e2e.metric.front().label;
  metric.counter.value = static_cast<double>(e2e.metric.front().histogram.sample_count);
  return {"sglang:num_requests_total", "Requests that finished.", MetricType::Counter, {metric}};
}

}  // namespace

void add_sglang_names(std::vector<MetricFamily>& families, size_t num_own, SglangRates rates) {
  const std::vector<MetricFamily> own(families.begin(), families.begin() + static_cast<ptrdiff_t>(num_own));
  for (const Alias& alias : kSglang) families.push_back(renamed(find(own, alias.own), alias.name));
  families.push_back(sglang_num_requests(find(own, "chorale_e2e_request_latency_seconds")));
  const ClientMetric& like = find(own, "chorale_num_requests_running").metric.front();
  families.push_back(
      gauge("sglang:gen_throughput", "Tokens made per second, lately.", like, rates.generation));
  families.push_back(gauge("sglang:cache_hit_rate",
                           "Share of the prompt tokens looked up that the prefix cache had, since the start.",
                           like, rates.cache_hits));
}

void add_vllm_names(std::vector<MetricFamily>& families, size_t num_own) {
  const std::vector<MetricFamily> own(families.begin(), families.begin() + static_cast<ptrdiff_t>(num_own));
  const size_t first = families.size();
  for (const Alias& alias : kVllm) families.push_back(renamed(find(own, alias.own), alias.name));
  families.push_back(vllm_request_success(find(own, "chorale_request_finished_total")));
  for (size_t i = first; i < families.size(); ++i)
    for (ClientMetric& metric : families[i].metric) metric.label.push_back({"engine", "0"});
}

}  // namespace chorale::server
