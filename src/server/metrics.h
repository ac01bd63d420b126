// What /metrics tells, in the Prometheus text format.
//
//   gauges      chorale_num_requests_running, chorale_num_requests_waiting,
//               chorale_kv_cache_tokens_total, chorale_kv_cache_tokens_used, chorale_kv_cache_tokens_cached
//   counters    chorale_prompt_tokens_total, chorale_cached_prompt_tokens_total,
//   chorale_generation_tokens_total,
//               chorale_prefix_cache_queries_total, chorale_prefix_cache_hits_total (both in tokens),
//               chorale_request_finished_total{reason="stop"|"length"|"abort"|"error"},
//               chorale_num_preemptions_total, chorale_engine_steps_total
//   histograms  chorale_time_to_first_token_seconds, chorale_inter_token_latency_seconds,
//               chorale_e2e_request_latency_seconds
//
//   by layer    chorale_expert_load_max_over_mean{layer="0"},
//               chorale_expert_rank_load_max_over_mean{layer="0"}
//
// Every metric has the label model_name.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "engine/engine.h"
#include "server/expert_distribution.h"

namespace chorale::server {

// Thread-safe.
class Metrics {
 public:
  explicit Metrics(const std::string& model_name);
  ~Metrics();

  // Seconds from the arrival of the request to its first token; between two tokens; to its end.
  void observe_first_token(double seconds);
  void observe_next_token(double seconds);
  void observe_end(double seconds);
  // The reason is one of those of chorale_request_finished_total. Stop strings end a request in this layer,
  // which is why the count is made here and not by the engine.
  void count_finished(const char* reason);

  // balance: by layer, as of the last time that was asked for.
  std::string serialize(const engine::EngineStats& stats, std::span<const LayerBalance> balance = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::server
