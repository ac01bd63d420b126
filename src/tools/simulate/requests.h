// The requests of a simulation, one after the other: millions of them are never kept all at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bench_serve/requests.h"
#include "tools/simulate/rate_profile.h"
#include "tools/simulate/time_counts.h"

namespace chorale::simulate {

struct SimulatedRequest {
  Time arrival{};
  std::vector<int32_t> prompt_ids;
  int64_t output_tokens = 1;
};

// Not thread-safe.
class RequestSource {
 public:
  virtual ~RequestSource() = default;
  // The next one, in order of arrival; false when none is left.
  virtual bool next(SimulatedRequest& request) = 0;
};

// "random:64x128+64": 64 requests of 128 random prompt tokens, which get 64 new tokens each.
// "random:128+64": as many as come in the time that is simulated.
struct RandomRequests {
  std::optional<int64_t> requests = {};
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  double range_ratio = 0;  // as bench_serve::RandomShape has it, 1: always full length
  bool operator==(const RandomRequests&) const = default;
};
// Throws Error that names --workload and the form it must have.
RandomRequests parse_random_requests(std::string_view text);

// A request of a trace. The form of files is Mooncake's: a JSON object per line with "timestamp" in
// milliseconds, "input_length", "output_length", and, if prompts share their beginnings, "hash_ids": a number
// for each 512 tokens of the prompt, the same where the tokens up to there are.
struct TraceRequest {
  Time arrival{};
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  std::vector<int64_t> hash_ids = {};  // empty: its tokens are those of no other
  bool operator==(const TraceRequest&) const = default;
};
inline constexpr int64_t kTraceBlockTokens = 512;
// Ascending by arrival, from 0 on. Throws Error that names `source` and the line.
std::vector<TraceRequest> parse_trace(std::string_view text, std::string_view source);

// What is asked for, and when. A pure function of these.
struct SourceOptions {
  int64_t vocab_size = 0;
  uint64_t seed = 0;
  // When requests come, as a Poisson process with the first at once; nothing: a trace's own times.
  std::optional<RateProfile> rate = {};
  std::optional<Time> duration = {};  // later ones are left out
};

// Of the same shape and seed, lengths and, at a constant rate, times are those of `bench serve`; the tokens
// are others.
std::unique_ptr<RequestSource> random_source(const RandomRequests& shape, const SourceOptions& options);
// The trace must outlive the source.
std::unique_ptr<RequestSource> trace_source(const std::vector<TraceRequest>& trace,
                                            const SourceOptions& options);

}  // namespace chorale::simulate
