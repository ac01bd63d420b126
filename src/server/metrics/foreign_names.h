// The names that other servers give to what Chorale measures, for their dashboards: copies of Chorale's own
// metrics, with their names and labels. docs/metrics.md has the list.
#pragma once

#include <cstddef>
#include <vector>

#include <prometheus/metric_family.h>

namespace chorale::server {

// Gauges of SGLang that Prometheus itself would compute from Chorale's counters.
struct SglangRates {
  double generation = 0;  // tokens per second
  double cache_hits = 0;  // 0 to 1
};

// Each reads the first num_own families, which are Chorale's, and appends to the list.
void add_sglang_names(std::vector<prometheus::MetricFamily>& families, size_t num_own, SglangRates rates);
void add_vllm_names(std::vector<prometheus::MetricFamily>& families, size_t num_own);

}  // namespace chorale::server
