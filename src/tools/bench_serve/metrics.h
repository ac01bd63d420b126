// A load in numbers: pure arithmetic over its records.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/bench_serve/load_run.h"

namespace chorale::bench_serve {

// What some values come to, in milliseconds. Percentiles are interpolated, as numpy does.
struct Statistics {
  double mean = 0;
  double standard_deviation = 0;  // the whole population's
  double median = 0, p90 = 0, p95 = 0, p99 = 0;
  double max = 0;
};

// Nothing for no values.
std::optional<Statistics> statistics(std::vector<double> milliseconds);

// Times of the requests that succeeded, in milliseconds, as sglang.bench_serving defines them.
struct Samples {
  std::vector<double> e2e;   // from sending a request to the last event of its stream
  std::vector<double> ttft;  // to the first event with text
  std::vector<double> tpot;  // (e2e - ttft) / (output tokens - 1), of requests with more than one
  std::vector<double> itl;   // from an event with text to the next, of all requests together
};

struct Metrics {
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t without_text = 0;  // completed ones that have no TTFT, TPOT and ITL
  double duration = 0;       // seconds
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double request_throughput = 0;  // per second, as those below
  double input_throughput = 0;
  double output_throughput = 0;
  double total_throughput = 0;
  double concurrency = 0;  // requests in flight, on average
  int64_t peak_concurrency = 0;
  Samples samples;
  std::optional<Statistics> e2e, ttft, tpot, itl;
};

// Only requests that succeeded count, but for `failed`.
Metrics compute_metrics(const LoadResult& load);

struct CountedError {
  std::string message;
  int64_t count = 0;
};

// The errors of requests that failed, in the order in which the requests were made; at most `most` of them.
std::vector<CountedError> first_errors(std::span<const RequestRecord> records, size_t most);

}  // namespace chorale::bench_serve
