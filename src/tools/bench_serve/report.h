// What a load has shown, as text, JSON and HTML.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tools/bench_serve/metrics.h"
#include "tools/machine.h"

namespace chorale::bench_serve {

struct Report {
  std::string version;  // this program's
  std::string date;
  tools::Machine machine;  // that the load came from
  std::string server;      // address
  std::string model;
  std::string endpoint;  // "completions" or "chat"
  std::string dataset;   // "random" or "sharegpt"
  std::string workload;  // for people: what was asked for
  int64_t requests = 0;
  double request_rate = 0;  // per second; may be infinite
  std::optional<int64_t> max_concurrency;
  uint64_t seed = 0;
  std::vector<std::string> notes;  // on how tokens were counted, and the like
  Metrics metrics;
  std::vector<CountedError> errors;  // the first ones
};

// The block of results in the form of sglang.bench_serving. Where there are no values, 0.00.
std::string report_text(const Report& report);

// One object, with the names of sglang.bench_serving; null where there are no values, or an infinite rate.
// With records, also what was seen of each request.
std::string report_json(const Report& report, std::span<const RequestRecord> records, int indent);

// The part of these that tells the metrics: lines from the duration on, and members with the names of
// sglang.bench_serving.
std::string metrics_text(const Metrics& metrics);
nlohmann::ordered_json metrics_json(const Metrics& metrics);

// One page that needs nothing else, with the distributions.
std::string report_html(const Report& report);

}  // namespace chorale::bench_serve
