#include "tools/bench_serve/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tools/distribution.h"

namespace chorale::bench_serve {
namespace {

constexpr double kMilliseconds = 1e3;

void add_samples(const RequestRecord& record, Samples& samples) {
  samples.e2e.push_back(record.latency * kMilliseconds);
  if (!record.first_token) return;
  samples.ttft.push_back(*record.first_token * kMilliseconds);
  if (record.output_tokens > 1) {
    const double rest = record.latency - *record.first_token;
    samples.tpot.push_back(rest * kMilliseconds / static_cast<double>(record.output_tokens - 1));
  }
  for (const double gap : record.between) samples.itl.push_back(gap * kMilliseconds);
}

}  // namespace

std::optional<Statistics> statistics(std::vector<double> milliseconds) {
  if (milliseconds.empty()) return std::nullopt;
  std::sort(milliseconds.begin(), milliseconds.end());
  const auto count = static_cast<double>(milliseconds.size());
  Statistics s;
  s.mean = std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0) / count;
  double squares = 0;
  for (const double value : milliseconds) squares += (value - s.mean) * (value - s.mean);
  s.standard_deviation = std::sqrt(squares / count);
  s.median = tools::percentile(milliseconds, 50);
  s.p90 = tools::percentile(milliseconds, 90);
  s.p95 = tools::percentile(milliseconds, 95);
  s.p99 = tools::percentile(milliseconds, 99);
  s.max = milliseconds.back();
  return s;
}

Metrics compute_metrics(const LoadResult& load) {
  Metrics m{.duration = load.duration, .peak_concurrency = load.peak_concurrency};
  double in_flight_seconds = 0;
  for (const RequestRecord& record : load.records) {
    if (!record.ok()) {
      ++m.failed;
      continue;
    }
    ++m.completed;
    m.without_text += record.first_token ? 0 : 1;
    m.input_tokens += record.prompt_tokens;
    m.output_tokens += record.output_tokens;
    in_flight_seconds += record.latency;
    add_samples(record, m.samples);
  }
  if (m.duration > 0) {
    m.request_throughput = static_cast<double>(m.completed) / m.duration;
    m.input_throughput = static_cast<double>(m.input_tokens) / m.duration;
    m.output_throughput = static_cast<double>(m.output_tokens) / m.duration;
    m.total_throughput = static_cast<double>(m.input_tokens + m.output_tokens) / m.duration;
    m.concurrency = in_flight_seconds / m.duration;
  }
  m.e2e = statistics(m.samples.e2e);
  m.ttft = statistics(m.samples.ttft);
  m.tpot = statistics(m.samples.tpot);
  m.itl = statistics(m.samples.itl);
  return m;
}

std::vector<CountedError> first_errors(std::span<const RequestRecord> records, size_t most) {
  std::vector<CountedError> errors;
  for (const RequestRecord& record : records) {
    if (record.ok()) continue;
    const auto known = std::find_if(errors.begin(), errors.end(),
                                    [&](const CountedError& e) { return e.message == record.error; });
    if (known != errors.end()) {
      ++known->count;
    } else if (errors.size() < most) {
      errors.push_back({record.error, 1});
    }
  }
  return errors;
}

}  // namespace chorale::bench_serve
